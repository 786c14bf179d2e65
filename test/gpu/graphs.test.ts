import type { RequestOutput } from '../../lib/index';
import { Device, liveStorages } from '../../lib/tensor/device';
import { describeGpu } from '../fixtures/gpu';
import { expectSame, withLLM } from '../integration/batch-suite';
import { mixedWork, runAlone, runTogether, TALES } from '../integration/workload';

/** One request, and batches that a graph pads (3 to 4, 17 to 24) and that it does not. */
const SIZES = [1, 3, 8, 17];

const CASES = [
  { dtype: 'float32', batchInvariant: false, same: 'tokens' },
  { dtype: 'float32', batchInvariant: true, same: 'bits' },
  { dtype: 'bfloat16', batchInvariant: true, same: 'bits' },
] as const;

describeGpu.each(CASES)('on CUDA, decode steps as graphs and without (kvasir-tales-5m, $dtype, batchInvariant $batchInvariant)', ({ dtype, batchInvariant, same }) => {
  // Without prefix caching every prompt runs whole, through the same kernels each time.
  const args = { device: 'cuda', dtype, batchInvariant, enablePrefixCaching: false } as const;
  const work = mixedWork(Math.max(...SIZES), 2048);
  let alone: RequestOutput[];

  beforeAll(async () => {
    ({ result: alone } = await withLLM(TALES, { ...args, enforceEager: true, asyncScheduling: false }, (llm) => runAlone(llm, work)));
  });
  afterEach(() => void jest.restoreAllMocks());

  test.each([
    { enforceEager: true, asyncScheduling: false },
    { enforceEager: true, asyncScheduling: true },
    { enforceEager: false, asyncScheduling: false },
    { enforceEager: false, asyncScheduling: true },
  ])(`batches of ${SIZES.join(', ')} are as requests alone: %j`, async (options) => {
    const launch = jest.spyOn(Device.prototype, 'launchGraph');
    await withLLM(TALES, { ...args, ...options }, async (llm) => {
      for (const size of SIZES) expectSame(await runTogether(llm, work.slice(0, size)), alone.slice(0, size), same);
      // Steps that only decode are one launch each, but for the first two of a size: that many there are in any case.
      expect(launch.mock.calls.length > 20).toBe(!options.enforceEager);
      expect(liveStorages().bytes).toBeGreaterThan(1 << 20);
    });
    expect(liveStorages()).toEqual({ count: 0, bytes: 0 });
  });
});
