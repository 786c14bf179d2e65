import { MemoryBudget } from '../../lib/worker/memory-budget';
import { requestedBytes } from '../../lib/worker/kv-cache';
import { KvasirError } from '../../lib/utils/errors';
import { Attention } from '../../lib/layers/attention';
import { expectCode } from '../fixtures/expect-error';
import { makeVllmConfig, type VllmConfigParts } from '../fixtures/vllm-config';

const GIB = 2 ** 30;
const sized = { cache: { numBlocks: null, kvCacheBytes: null, gpuMemoryUtilization: 0.5 } };

/** A device of 80 GiB, 10 of which other programs hold. */
const budgetOf = (parts: VllmConfigParts = sized) => new MemoryBudget(makeVllmConfig(parts), { free: 70 * GIB, total: 80 * GIB });
const messageOf = async (action: () => unknown): Promise<string> => (await expectCode('ERR_KVASIR_OUT_OF_MEMORY', action)).message;
const nothing = (): void => undefined;

describe('the memory budget of a CUDA device', () => {
  test('allows what fits the share, to the byte, and counts what was taken before', async () => {
    const budget = budgetOf();
    expect(budget.take('weights', 20 * GIB, () => 'made')).toBe('made');
    budget.take('activations', 10 * GIB, nothing);
    let allocated = false;
    await expectCode('ERR_KVASIR_OUT_OF_MEMORY', () => budget.take('logits', 1, () => (allocated = true)));
    expect(allocated).toBe(false);
  });

  test('weights: how much is needed, how much is there, and the share that would do', async () => {
    const message = await messageOf(() => budgetOf().take('weights', 45 * GIB, nothing));
    expect(message).toContain('weights (dtype float32) need 45.00 GiB of device memory, there are 30.00 GiB');
    expect(message).toContain('gpuMemoryUtilization 0.5 of 80.00 GiB, less 10.00 GiB in use');
    expect(message).toContain('raise gpuMemoryUtilization to 0.69 or more, or use dtype bfloat16');
  });

  test('weights that no share can hold: no advice to raise it', async () => {
    const message = await messageOf(() => budgetOf({ ...sized, model: { dtype: 'bfloat16' } }).take('weights', 71 * GIB, nothing));
    expect(message).not.toContain('raise');
    expect(message).toContain('quantized checkpoint');
  });

  test.each([
    ['inputs', /lower maxNumSeqs or maxModelLen$/],
    ['activations', /maxNumBatchedTokens 32\).*, 20\.00 GiB of them by this model.*lower maxNumBatchedTokens$/],
    ['logits', /maxNumSeqs 4\).*lower maxNumSeqs$/],
  ] as const)('%s: names the option that makes them smaller', async (use, pattern) => {
    const budget = budgetOf();
    budget.take('weights', 20 * GIB, nothing);
    expect(await messageOf(() => budget.take(use, 51 * GIB, nothing))).toMatch(pattern);
  });

  test('a KV cache of a given size may take all that is free, and no more', async () => {
    const given = { cache: { ...sized.cache, numBlocks: 1000 } };
    budgetOf(given).take('kvCache', 70 * GIB, nothing);
    const message = await messageOf(() => budgetOf(given).take('kvCache', 70 * GIB + 1, nothing));
    expect(message).toMatch(/^KV cache \(numKvBlocks 1000\).*: lower numKvBlocks$/);
    expect(await messageOf(() => budgetOf({ cache: { ...sized.cache, kvCacheBytes: 7 } }).take('kvCache', 71 * GIB, nothing))).toMatch(/lower kvCacheBytes$/);
  });
});

describe('a device that runs out all the same', () => {
  const full = () => new KvasirError('ERR_KVASIR_OUT_OF_MEMORY', '5 MiB are needed', { cause: new Error('native') });

  test.each([
    ['at once', () => { throw full(); }],
    ['later', () => Promise.reject(full())],
  ])('%s: the error says for what, and which option helps', async (_name, allocate: () => unknown) => {
    const budget = new MemoryBudget(makeVllmConfig(), null);
    const message = await messageOf(() => budget.take('activations', 2 ** 50, allocate));
    expect(message).toBe('no memory for activations (maxNumBatchedTokens 32): 5 MiB are needed: lower maxNumBatchedTokens');
  });

  test('other errors, and those that say it themselves, pass', async () => {
    const budget = new MemoryBudget(makeVllmConfig(), null);
    for (const error of [new TypeError('x'), new KvasirError('ERR_KVASIR_OUT_OF_MEMORY', 'all is said'), new KvasirError('ERR_KVASIR_WEIGHTS', 'x', { cause: 1 })]) {
      expect(() => budget.take('weights', 0, () => { throw error; })).toThrow(error);
    }
  });
});

describe('bytes of a KV cache that options give', () => {
  const bytesFor = (cache: VllmConfigParts['cache']): number => {
    const config = makeVllmConfig({ cache });
    new Attention(config, { numHeads: 4, numKvHeads: 2, headDim: 4, scale: 1 }, 'a');
    return requestedBytes(config);
  };
  const blockBytes = 2 * 2 * 16 * 4 * 4;

  test.each([
    [{ numBlocks: 5 }, 5 * blockBytes],
    [{ numBlocks: null, kvCacheBytes: 4 * blockBytes - 1 }, 3 * blockBytes],
    [{ numBlocks: null }, 0],
  ])('%j', (cache, bytes) => {
    expect(bytesFor(cache)).toBe(bytes);
  });
});
