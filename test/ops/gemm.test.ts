import { embedding } from '../../lib/ops/embedding';
import { canPackLinear, linear, linearInto, PACK_ROWS, packLinear } from '../../lib/ops/gemm';
import { tensorScope } from '../../lib/tensor/scope';
import type { Tensor } from '../../lib/tensor/tensor';
import { narrow } from '../../lib/tensor/views';
import { ALIGNED_CASES, LINEAR_CASES, linearReference, UNPACKED_CASES, type LinearCase } from './cases/gemm';
import { encode, forEachIsa, itOn, OpBench, randomValues, relativeL2, roundTo, TEST_DEVICE, TOLERANCE, type FloatType } from './harness';

const ALL_CASES: readonly LinearCase[] = [...LINEAR_CASES, ...UNPACKED_CASES, ...ALIGNED_CASES];
const paddedRows = (n: number): number => Math.ceil(n / PACK_ROWS) * PACK_ROWS;

/** A tensor of values that were encoded before: encoding in JavaScript is slow, and every instruction set takes the same. */
function tensorOf(bench: OpBench, dtype: FloatType, shape: readonly number[], bits: NodeJS.TypedArray): Tensor {
  const tensor = bench.poisoned(dtype, shape);
  tensor.write(bits);
  return tensor;
}

/** A weight [n, k], or packed with zero rows added. */
function weightTensor(bench: OpBench, dtype: FloatType, n: number, k: number, bits: NodeJS.TypedArray, packed: boolean): Tensor {
  if (!packed) return tensorOf(bench, dtype, [n, k], bits);
  const tensor = bench.run(() => tensorScope().allocate([paddedRows(n), k], dtype));
  tensor.write(bits);
  bench.run(() => packLinear(tensor));
  return tensor;
}

/** x [m, k] with `gap` columns of NaN after each row. */
function withGaps(x: Float64Array, m: number, k: number, gap: number): Float64Array {
  const wide = new Float64Array(m * (k + gap)).fill(NaN);
  for (let i = 0; i < m; i++) wide.set(x.subarray(i * k, (i + 1) * k), i * (k + gap));
  return wide;
}

interface Inputs {
  readonly x: NodeJS.TypedArray;
  readonly weight: NodeJS.TypedArray;
  readonly bias: NodeJS.TypedArray | null;
  readonly expected: Float64Array;
}

const biasType = (c: LinearCase): FloatType => (c.bias === 'same' ? c.dtype : 'float32');
/** Columns between rows: rows stay aligned to 16 bytes where their length lets them, for kernels that need that. */
const gapOf = (c: LinearCase): number => (!c.strided ? 0 : c.n % 8 === 0 && c.k % 8 === 0 ? 8 : 6);

function inputsOf(c: LinearCase): Inputs {
  const x = roundTo(c.dtype, randomValues(c.m * c.k, 1));
  const weight = roundTo(c.dtype, randomValues(c.n * c.k, 2));
  const bias = c.bias === 'none' ? null : roundTo(biasType(c), randomValues(c.n, 3));
  return {
    x: encode(c.dtype, withGaps(x, c.m, c.k, gapOf(c))),
    weight: encode(c.dtype, weight),
    bias: bias && encode(biasType(c), bias),
    expected: linearReference(c, x, weight, bias),
  };
}

async function checkCase(c: LinearCase, { x, weight, bias, expected }: Inputs, prepare?: (bench: OpBench) => void): Promise<void> {
  const { dtype, m, n, k } = c;
  const bench = new OpBench();
  prepare?.(bench);
  const outType = c.outFloat32 ? 'float32' : dtype;
  const xWide = tensorOf(bench, dtype, [m, k + gapOf(c)], x);
  const xt = bench.run(() => narrow(xWide, 1, 0, k));
  const wt = weightTensor(bench, dtype, n, k, weight, c.packed);
  const bt = bias && tensorOf(bench, biasType(c), [n], bias);
  const wide = bench.poisoned(outType, [m, n + gapOf(c)]);
  bench.run(() => linearInto(narrow(wide, 1, 0, n), xt, wt, bt));
  const all = await bench.values(wide);
  const width = wide.size(1);
  const actual = Float64Array.from({ length: m * n }, (_, i) => all[Math.floor(i / n) * width + (i % n)]!);
  expect(relativeL2(actual, expected)).toBeLessThan(TOLERANCE[outType]);
  // Nothing is written beside the columns asked for.
  expect(all.filter((v, i) => i % width >= n && !Number.isNaN(v))).toHaveLength(0);
  await bench.close();
}

describe('linear', () => {
  it.each(ALL_CASES.map((c) => [JSON.stringify(c), c] as const))('%s', async (_name, c) => {
    const inputs = inputsOf(c);
    await forEachIsa(() => checkCase(c, inputs));
  });

  itOn('cuda')('is right without cuBLASLt', async () => {
    for (const c of ALL_CASES) await checkCase(c, inputsOf(c), (bench) => bench.device.configureGemm({ useCublasLt: false }));
  }, 120_000);

  itOn('cuda')('says where it took cuBLASLt from, or where it looked', async () => {
    const bench = new OpBench();
    expect(bench.device.gemmReport()).toMatch(/^cuBLASLt (\d+\.\d+\.\d+ at \S+|was not found: own kernels are used)/);
    bench.device.configureGemm({ cublasLtPath: '/nonexistent/libcublasLt.so.13' });
    expect(bench.device.gemmReport()).toContain('/nonexistent/libcublasLt.so.13');
    await bench.close();
  });

  itOn('cuda')('gives the same result from a graph as from a call', async () => {
    const [n, k] = [320, 512];
    const bench = new OpBench();
    const weight = bench.float('bfloat16', [n, k], randomValues(n * k, 1));
    for (const m of [1, 8, 96, 600]) {
      const x = bench.float('bfloat16', [m, k], randomValues(m * k, 2));
      const out = bench.poisoned('bfloat16', [m, n]);
      bench.run(() => linearInto(out, x, weight));
      const expected = await bench.values(out);
      out.write(new Uint16Array(m * n).fill(0xffff));
      await bench.device.synchronize();
      bench.device.beginCapture();
      bench.run(() => linearInto(out, x, weight));
      const graph = bench.device.endCapture();
      bench.device.launchGraph(graph);
      expect(await bench.values(out)).toEqual(expected);
      bench.device.destroyGraph(graph);
    }
    await bench.close();
  });

  it.each(['float32', 'float16', 'bfloat16'] as const)('is the same bit for bit whatever else is in the batch: %s', async (dtype) => {
    const [m, n, k] = [513, 70, 1100]; // k takes several pieces
    const weightBits = encode(dtype, randomValues(n * k, 1));
    const xBits = encode(dtype, randomValues(m * k, 2));
    await forEachIsa(async (isa) => {
      const bench = new OpBench();
      if (TEST_DEVICE === 'cuda') bench.device.configureGemm({ batchInvariant: true });
      const weight = weightTensor(bench, dtype, n, k, weightBits, true);
      const x = tensorOf(bench, dtype, [m, k], xBits);
      const whole = await bench.values(bench.run(() => linear(x, weight, null, n)));
      for (const [start, count] of [[0, 1], [511, 2], [17, 5], [100, 6], [250, 7], [3, 64]] as const) {
        const part = await bench.values(bench.run(() => linear(narrow(x, 0, start, count), weight, null, n)));
        expect([isa, start, Buffer.from(part.buffer).equals(Buffer.from(whole.buffer, start * n * 8, count * n * 8))]).toEqual([isa, start, true]);
      }
      await bench.close();
    });
  });
});

describe('packLinear', () => {
  it.each(['float32', 'float16', 'bfloat16'] as const)('keeps every row readable: %s', async (dtype) => {
    const [n, k] = [192, 66];
    const bench = new OpBench();
    const values = roundTo(dtype, randomValues(n * k, 5));
    const weight = weightTensor(bench, dtype, n, k, encode(dtype, values), true);
    const ids = bench.ints('int32', [n], Array.from({ length: n }, (_, i) => i));
    expect(weight.packed).toBe(true);
    expect(await bench.values(bench.run(() => embedding(weight, ids)))).toEqual(values);
    await bench.close();
  });

  it('says which weights have a packed form', () => {
    expect([canPackLinear('bfloat16', 8), canPackLinear('bfloat16', 7), canPackLinear('float16', 7), canPackLinear('int8', 8)]).toEqual([true, false, true, false]);
  });
});

describe('errors of linear layers', () => {
  const tensorError = (text: string): Error => expect.objectContaining({ code: 'ERR_KVASIR_TENSOR', message: expect.stringContaining(text) }) as Error;

  it('names what does not agree', async () => {
    const bench = new OpBench();
    const zeros = (dtype: FloatType, shape: number[]): Tensor => bench.float(dtype, shape, new Float64Array(shape.reduce((a, b) => a * b)));
    const x = zeros('bfloat16', [2, 8]);
    const weight = zeros('bfloat16', [64, 8]);
    const run = (fn: () => unknown): (() => unknown) => () => bench.run(fn);
    expect(run(() => linear(x, zeros('bfloat16', [64, 6])))).toThrow(tensorError('weight has inFeatures 6, expected 8'));
    expect(run(() => linear(x, zeros('float32', [64, 8])))).toThrow(tensorError('weight is float32 but x is bfloat16'));
    expect(run(() => linear(x, weight, null, 32))).toThrow(tensorError('weight has outFeatures 64, expected 32'));
    expect(run(() => linear(x, weight, null, 64, 'float16'))).toThrow(tensorError('out must be bfloat16 or float32'));
    expect(run(() => linear(x, weight, zeros('bfloat16', [63])))).toThrow(tensorError('bias has outFeatures 63, expected 64'));
    await bench.close();
  });

  it('refuses weights that cannot be packed, and packing twice', async () => {
    const bench = new OpBench();
    const weight = (rows: number, columns: number): Tensor => bench.float('bfloat16', [rows, columns], new Float64Array(rows * columns));
    const packed = weight(64, 8);
    bench.run(() => packLinear(packed));
    expect(() => bench.run(() => packLinear(weight(60, 8)))).toThrow(tensorError('a multiple of 64 rows'));
    expect(() => bench.run(() => packLinear(weight(64, 7)))).toThrow(tensorError('an even number of columns'));
    expect(() => bench.run(() => packLinear(packed))).toThrow(tensorError('packed already'));
    const x = bench.float('bfloat16', [1, 8], new Float64Array(8));
    expect(() => bench.run(() => linear(x, packed, null, 65))).toThrow(tensorError('more columns than the packed weight has rows'));
    await bench.close();
  });
});
