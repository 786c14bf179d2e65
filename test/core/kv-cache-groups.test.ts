import { KVCacheManager, NO_PREFIX } from '../../lib/core/kv-cache-manager';
import type { KVCacheManagerOptions } from '../../lib/core/kv-cache-manager';
import type { Request } from '../../lib/core/request';
import { Scheduler } from '../../lib/core/scheduler';
import { coreRequest, createScheduler, range, request, runStep } from './fixtures/requests';
import { SimulatedWorker } from './fixtures/simulated-worker';

const groupsOf = (...windows: (number | null)[]) => windows.map((slidingWindow) => ({ slidingWindow }));
const create = (options: Partial<KVCacheManagerOptions>): KVCacheManager =>
  new KVCacheManager({ numBlocks: 21, blockSize: 4, enablePrefixCaching: true, ...options });

/** One step of `numTokens`: ids of the new blocks, or null. */
function compute(manager: KVCacheManager, r: Request, numTokens: number): number[] | null {
  const cached = r.blockTable === null ? manager.getComputedBlocks(r) : NO_PREFIX;
  const blocks = manager.allocateSlots(r, numTokens - cached.numBlocks * manager.blockSize, cached);
  if (blocks === null) return null;
  r.numComputedTokens += numTokens;
  return blocks.map((block) => block.blockId);
}

const hit = (manager: KVCacheManager, tokens: number[]): { tokens: number; ids: number[] } => {
  const { numBlocks, blocks } = manager.getComputedBlocks(request('lookup', tokens));
  return { tokens: numBlocks * manager.blockSize, ids: blocks.map((block) => block.blockId) };
};

describe('a full group and one with a window of 5, blocks of 4', () => {
  const groups = groupsOf(null, 5);

  it('takes blocks for the groups in turn, and gives those back that lie before the window', () => {
    const manager = create({ groups, numBlocks: 11 });
    const a = request('a', range(19));
    expect(compute(manager, a, 8)).toEqual([1, 2, 3, 4]);
    // The query at 8 sees 4..: block 0 of the window is given back, and being in the cache it is reused last.
    expect(compute(manager, a, 4)).toEqual([5, 6]);
    expect(manager.blockIds(a)).toEqual([1, 0, 3, 4, 5, 6]);
    expect(manager.pool.freeBlockIds()).toEqual([7, 8, 9, 10, 2]);
    expect(compute(manager, a, 3)).toEqual([7, 8]);
    expect(manager.blockIds(a)).toEqual([1, 0, 3, 0, 5, 6, 7, 8]);
    // The query at 15 sees 11.., the block of 8..11 is still needed; at 16 it is not.
    expect(compute(manager, a, 1)).toEqual([]);
    expect(manager.blockIds(a)).toEqual([1, 0, 3, 0, 5, 6, 7, 8]);
    expect(compute(manager, a, 1)).toEqual([9, 10]);
    expect(manager.blockIds(a)).toEqual([1, 0, 3, 0, 5, 0, 7, 8, 9, 10]);
    expect([manager.pool.blocksHeld, manager.pool.peakBlocksHeld]).toEqual([[5, 2], [5, 2]]);
    manager.pool.checkInvariants();
    // The end first; blocks that are not in the cache before all.
    manager.free(a);
    expect(manager.pool.freeBlockIds()).toEqual([9, 10, 2, 4, 6, 8, 7, 5, 3, 1]);
    manager.pool.checkInvariants();
  });

  it('hits the longest prefix for which both groups have what they need', () => {
    const manager = create({ groups });
    const a = request('a', range(19));
    for (const step of [4, 4, 4, 4, 3]) compute(manager, a, step);
    const tables = manager.blockIds(a);
    expect(tables).toEqual([1, 0, 3, 0, 5, 0, 7, 8, 9, 10]);
    // At the end of the hit, the window needs the block before it only; null blocks stand for the others.
    expect(hit(manager, range(17))).toEqual({ tokens: 16, ids: [1, 0, 3, 0, 5, 0, 7, 8] });
    expect(hit(manager, [...range(12), 99])).toEqual({ tokens: 12, ids: [1, 0, 3, 0, 5, 6] });
    expect(hit(manager, range(4))).toEqual({ tokens: 0, ids: [] });
    manager.free(a);
    manager.pool.checkInvariants();
  });

  it('shrinks a hit where the window lost its block, and goes on behind it', () => {
    const manager = create({ groups, numBlocks: 13 });
    const a = request('a', range(17));
    for (const step of [4, 4, 4, 4, 1]) compute(manager, a, step);
    // Free are 11 and 12, then the blocks of the window in the order in which it left them: 2, 4, 6.
    expect(manager.pool.freeBlockIds()).toEqual([11, 12, 2, 4, 6]);
    const other = request('other', range(5, 500));
    expect(compute(manager, other, 5)).toEqual([11, 12, 2, 4]);
    const tail = [1, 0, 3, 0, 5, 0, 7, 8];
    expect(hit(manager, [...range(8), 99])).toEqual({ tokens: 0, ids: [] });
    expect(hit(manager, [...range(12), 99])).toEqual({ tokens: 12, ids: tail.slice(0, 4).concat(5, 6) });
    expect(hit(manager, range(17))).toEqual({ tokens: 16, ids: tail });
    compute(manager, request('b', range(2, 700)), 1);
    expect(manager.pool.numFreeBlocks).toBe(1);
    manager.pool.checkInvariants();
  });

  it('needs every block of the full group, whatever the window has', () => {
    const manager = create({ groups, numBlocks: 9 });
    const a = request('a', range(9));
    for (const step of [4, 4]) compute(manager, a, step);
    manager.pool.withdrawBlocks([a.blockTable!.blocks[0]!]);
    expect(hit(manager, range(9)).tokens).toBe(0);
    // Computed again by another request, the first block joins what is there of the second.
    expect(compute(manager, request('b', range(4)), 4)).toEqual([5, 6]);
    expect(hit(manager, range(9))).toEqual({ tokens: 8, ids: [5, 0, 3, 4] });
    manager.pool.checkInvariants();
  });

  it('gives all or nothing', () => {
    const manager = create({ groups, numBlocks: 6 });
    const a = request('a', range(12));
    expect(compute(manager, a, 8)).toEqual([1, 2, 3, 4]);
    const b = request('b', range(3, 500));
    expect(compute(manager, b, 3)).toBeNull();
    expect([manager.blockIds(b), manager.pool.freeBlockIds()]).toEqual([[], [5]]);
    // What a gives back first is enough for itself.
    expect(compute(manager, a, 4)).toEqual([5, 2]);
    manager.pool.checkInvariants();
  });

  it('does not trust what a failed request wrote, nor the blocks that its window left behind', () => {
    const manager = create({ groups });
    const a = request('a', range(17));
    for (const step of [4, 4, 4, 4, 1]) compute(manager, a, step);
    manager.withdrawCached(a);
    manager.free(a);
    // Another request writes the beginning again: what is found is its own.
    const b = request('b', range(9));
    compute(manager, b, 8);
    const [first, , second, window] = manager.blockIds(b);
    expect(hit(manager, range(17))).toEqual({ tokens: 8, ids: [first, 0, second, window] });
    manager.pool.checkInvariants();
  });
});

describe('layers that all have a window', () => {
  it('hit the end of a prefix whose beginning was overwritten', () => {
    const manager = create({ groups: groupsOf(4), numBlocks: 6 });
    const a = request('a', range(21));
    // In its steps it holds two blocks at most, and takes those again that it left: first those never used.
    const taken = [4, 4, 4, 4, 4].map((step) => compute(manager, a, step));
    expect(taken).toEqual([[1], [2], [3], [4], [5]]);
    expect(manager.pool.peakBlocksHeld).toEqual([2]);
    const other = request('other', range(8, 500));
    expect(compute(manager, other, 8)).toEqual([1, 2]);
    expect(hit(manager, range(9)).tokens).toBe(0);
    expect(hit(manager, range(21))).toEqual({ tokens: 20, ids: [0, 0, 0, 0, 5] });
    expect(hit(manager, range(13)).tokens).toBe(12);
    expect(hit(manager, [...range(7), 99, ...range(9, 8)]).tokens).toBe(0);
    expect(hit(manager, range(20, 1)).tokens).toBe(0);
    manager.pool.checkInvariants();
  });

  it('compare the whole prefix, although its blocks are gone and every hash collides', () => {
    const manager = create({ groups: groupsOf(4), numBlocks: 6, hashFn: () => 'x' });
    const same = [7, 7, 7, 7];
    const a = request('a', [1, 2, 3, 4, ...same, ...same, 9]);
    for (const step of [4, 4, 4]) compute(manager, a, step);
    compute(manager, request('other', range(12, 500)), 12);
    expect(hit(manager, [1, 2, 3, 4, ...same, ...same, 9]).tokens).toBe(12);
    for (const [beginning, end] of [[[1, 2, 3, 5], same], [same, [1, 2, 3, 4]], [same, same]] as const)
      expect(hit(manager, [...beginning, ...end, ...same, 9]).tokens).toBe(0);
    manager.pool.checkInvariants();
  });

  it('with a window of one token need no block at all', () => {
    const manager = create({ groups: groupsOf(1) });
    const a = request('a', range(9));
    compute(manager, a, 8);
    expect(hit(manager, range(9))).toEqual({ tokens: 8, ids: [0, 0] });
    const b = request('b', range(9));
    expect(compute(manager, b, 9)).toEqual([3]);
    expect(manager.blockIds(b)).toEqual([0, 0, 3]);
    expect(compute(manager, a, 1)).toEqual([4]);
    expect(manager.pool.blocksHeld).toEqual([2]);
    for (const r of [a, b]) manager.free(r);
    manager.pool.checkInvariants();
  });

  it('have room for sequences of any length', () => {
    const options = { groups: groupsOf(8), numBlocks: 9 };
    expect(create(options).capacityTokens(1000, 16)).toBe(1000);
    // 7 tokens before a step of 26 touch up to 9 blocks.
    expect(create(options).capacityTokens(1000, 26)).toBe(32);
    expect(create({ ...options, groups: groupsOf(null) }).capacityTokens(1000, 16)).toBe(32);
    expect(create({ ...options, groups: groupsOf(null, 8) }).capacityTokens(1000, 1)).toBe(20);
    expect(create({ ...options, groups: groupsOf(null, 8, 8, 8, 8, 8, 8, 8, 8) }).capacityTokens(1000, 1)).toBe(0);
  });
});

describe('a scheduler with a full group and one with a window', () => {
  const lengthOf = 400;

  it('holds at most three blocks of 16 for a window of 16 over 400 tokens of decoding', () => {
    const scheduler = createScheduler({ windows: [null, 16], maxModelLen: 512 });
    const worker = new SimulatedWorker({ numBlocks: 1001, blockSize: 16, vocabSize: 50, windows: [null, 16] });
    scheduler.addRequest(coreRequest('a', range(16), { params: { maxTokens: lengthOf - 16 } }));
    let mostHeld = 0;
    while (scheduler.hasUnfinishedRequests()) {
      runStep(scheduler, worker);
      mostHeld = Math.max(mostHeld, scheduler.stats().kvCacheGroups[1]!.numBlocksHeld);
    }
    expect(mostHeld).toBe(2);
    expect(scheduler.stats().kvCacheGroups).toEqual([
      { slidingWindow: null, numLayers: 2, numBlocksHeld: 0, peakBlocksHeld: 25 },
      { slidingWindow: 16, numLayers: 2, numBlocksHeld: 0, peakBlocksHeld: 2 },
    ]);
  });

  it('takes a prompt in chunks that a pool of the window and one chunk has room for', () => {
    const scheduler = createScheduler({ windows: [16], maxModelLen: 512, numBlocks: 5, maxNumBatchedTokens: 32 });
    const worker = new SimulatedWorker({ numBlocks: 5, blockSize: 16, vocabSize: 50, windows: [16] });
    scheduler.addRequest(coreRequest('a', range(lengthOf), { params: { maxTokens: 20 } }));
    scheduler.addRequest(coreRequest('b', range(lengthOf, 7), { params: { maxTokens: 20 } }));
    while (scheduler.hasUnfinishedRequests()) runStep(scheduler, worker);
    expect(scheduler.stats().kvCacheGroups[0]).toMatchObject({ numBlocksHeld: 0, peakBlocksHeld: 4 });
  });

  it('refuses a pool that has no block for every group', () => {
    const config = expect.objectContaining({ code: 'ERR_KVASIR_CONFIG' });
    expect(() => createScheduler({ windows: [null, 16, 16], numBlocks: 3 })).toThrow(config);
    expect(createScheduler({ windows: [null, 16, 16], numBlocks: 4 })).toBeInstanceOf(Scheduler);
  });
});
