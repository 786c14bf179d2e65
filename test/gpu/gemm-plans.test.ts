import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import { linear } from '../../lib/ops/gemm';
import { narrow } from '../../lib/tensor/views';
import { describeGpu } from '../fixtures/gpu';
import { OpBench, randomValues, relativeL2 } from '../ops/harness';

const [N, K] = [512, 1024];
const WEIGHT = randomValues(N * K, 1);

/** What linear layers of these numbers of rows give on a device of their own, and what that device says afterwards. */
async function runLinear(planFolder: string | null, rows: readonly number[]): Promise<{ values: Float64Array[]; report: string }> {
  const bench = new OpBench();
  bench.device.configureGemm({ planFolder });
  const weight = bench.float('bfloat16', [N, K], WEIGHT);
  const values: Float64Array[] = [];
  for (const m of rows) {
    const x = bench.float('bfloat16', [m, K], randomValues(m * K, 2));
    values.push(await bench.values(bench.run(() => linear(x, weight))));
  }
  const report = bench.device.gemmReport();
  await bench.close();
  return { values, report };
}

describeGpu('plans of linear layers on disk', () => {
  let folder: string;
  beforeEach(() => {
    folder = fs.mkdtempSync(path.join(os.tmpdir(), 'kvasir-plans-'));
  });
  afterEach(() => fs.rmSync(folder, { recursive: true }));

  it('are written once, and taken from there afterwards; damage is ignored', async () => {
    const rows = [8, 16, 100, 600];
    const first = await runLinear(folder, rows);
    const found = /^cuBLASLt \d+\.\d+\.\d+ at /.test(first.report) && !first.report.includes('own kernels');
    const files = fs.readdirSync(folder).filter((name) => name.endsWith('.plans'));
    expect(files).toHaveLength(found ? 1 : 0);
    if (!found) return;
    const file = path.join(folder, files[0]!);
    const written = fs.readFileSync(file);
    const count = written.toString().trimEnd().split('\n').length - 1;
    expect(count).toBeGreaterThan(0); // a shape for which the library has one kernel only is not timed
    expect(first.report).toContain(`; ${count} plans in ${file}`);

    const second = await runLinear(folder, rows);
    expect(second.values).toEqual(first.values);
    expect(second.report).toBe(first.report);
    expect(fs.readFileSync(file).equals(written)).toBe(true);

    fs.writeFileSync(file, written.subarray(0, written.length - 10));
    const third = await runLinear(folder, rows);
    expect(third.report).toBe(first.report);
    third.values.forEach((values, i) => expect(relativeL2(values, first.values[i]!)).toBeLessThan(4e-3));
  });

  it('are not kept without a folder', async () => {
    expect((await runLinear(null, [8])).report).not.toContain('plans');
    expect(fs.readdirSync(folder)).toEqual([]);
  });

  it('that cannot be written are reported', async () => {
    const below = path.join(folder, 'file');
    fs.writeFileSync(below, '');
    const { report } = await runLinear(path.join(below, 'gemm'), [8]);
    if (!report.includes('own kernels')) expect(report).toContain('; plans are not kept: ');
  });
});

describeGpu('batch-invariant linear layers', () => {
  it.each(['float16', 'bfloat16'] as const)('give a row the same bits whatever the number of rows: %s', async (dtype) => {
    const m = 1300;
    const bench = new OpBench();
    bench.device.configureGemm({ batchInvariant: true });
    const weight = bench.float(dtype, [N, K], WEIGHT);
    const x = bench.float(dtype, [m, K], randomValues(m * K, 3));
    const whole = await bench.values(bench.run(() => linear(x, weight)));
    for (const [start, rows] of [[0, 1], [1299, 1], [7, 2], [9, 3], [40, 8], [64, 33], [100, 128], [3, 513], [1, 1299]] as const) {
      const part = await bench.values(bench.run(() => linear(narrow(x, 0, start, rows), weight)));
      expect([start, rows, Buffer.from(part.buffer).equals(Buffer.from(whole.buffer, start * N * 8, rows * N * 8))]).toEqual([start, rows, true]);
    }
    await bench.close();
  });
});
