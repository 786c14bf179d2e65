import type { EngineArgs } from '../../lib/index';
import { MemoryBudget } from '../../lib/worker/memory-budget';
import { expectCode } from '../fixtures/expect-error';
import { expectNothingLeft, open, TALES } from './workload';

const MIB = 2 ** 20;

afterEach(() => {
  jest.restoreAllMocks();
  expectNothingLeft();
});

describe('an engine on a device with little memory (kvasir-tales-5m)', () => {
  /** The model takes 19.5 MiB in float32. */
  function withMemory(mib: number): void {
    jest.spyOn(MemoryBudget, 'of').mockImplementation((config) => new MemoryBudget(config, { free: mib * MIB, total: 2 * mib * MIB }));
  }

  test.each<[string, number, Partial<EngineArgs>, RegExp]>([
    ['weights', 10, {}, /^weights \(dtype float32\) need 0\.02 GiB .*use dtype bfloat16/],
    ['weights over the share', 50, { gpuMemoryUtilization: 0.6 }, /^weights .*there are 0\.01 GiB .*raise gpuMemoryUtilization to 0\.7 or more/],
    ['block tables', 1000, { maxNumSeqs: 65536, maxNumBatchedTokens: 65536, gpuMemoryUtilization: 0.515 }, /^inputs and sampling state \(maxNumSeqs 65536, maxModelLen \d+\) need .*lower maxNumSeqs or maxModelLen$/],
    ['activations', 100, { maxNumBatchedTokens: 1_000_000 }, /^activations \(maxNumBatchedTokens 1000000\) need .*lower maxNumBatchedTokens$/],
    ['logits', 500, { maxNumSeqs: 50_000, maxNumBatchedTokens: 50_000, numKvBlocks: 2 }, /^logits \(maxNumSeqs 50000\) need .*lower maxNumSeqs$/],
    ['a KV cache of many blocks', 1000, { numKvBlocks: 100_000 }, /^KV cache \(numKvBlocks 100000\) need .*lower numKvBlocks$/],
  ])('%s that do not fit: the error names sizes and option, and nothing is left', async (_name, mib, args, message) => {
    withMemory(mib);
    const error = await expectCode('ERR_KVASIR_OUT_OF_MEMORY', () => open(TALES, { dtype: 'float32', ...args }));
    expect(error.message).toMatch(message);
  });

  test('that is enough', async () => {
    withMemory(4000);
    const llm = await open(TALES, { dtype: 'float32', numKvBlocks: 100 });
    expect((await llm.generate('Once', { maxTokens: 3, ignoreEos: true }))[0]!.outputs[0]!.tokenIds).toHaveLength(3);
    await llm.close();
  });
});
