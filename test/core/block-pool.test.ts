import { BlockPool } from '../../lib/core/block-pool';
import { FreeBlockQueue, KVCacheBlock } from '../../lib/core/free-block-queue';
import type { PrefixNode } from '../../lib/core/prefix-tree';

/** The prefix of two tokens after `parent`, as a request that computed it would publish it. */
const node = (pool: BlockPool, tokenIds: number[], parent: PrefixNode | null = null): PrefixNode =>
  pool.prefixes.findOrAdd({ hash: String(tokenIds), tokenIds, parent, extraKey: null, start: 0 });
const cached = (pool: BlockPool, tokenIds: number[]): KVCacheBlock | null =>
  pool.prefixes.find({ hash: String(tokenIds), tokenIds, parent: null, extraKey: null, start: 0 })?.block(0) ?? null;
const ids = (blocks: Iterable<KVCacheBlock>): number[] => Array.from(blocks, (block) => block.blockId);
const dead = expect.objectContaining({ code: 'ERR_KVASIR_ENGINE_DEAD' });

describe('FreeBlockQueue', () => {
  const blocks = Array.from({ length: 5 }, (_, id) => new KVCacheBlock(id));
  const queue = new FreeBlockQueue(blocks);

  it('pops the front, removes from the middle, and takes blocks back at both ends', () => {
    expect(ids(queue)).toEqual([0, 1, 2, 3, 4]);
    expect(queue.popFront()).toBe(blocks[0]);
    queue.remove(blocks[2]!);
    expect(ids(queue)).toEqual([1, 3, 4]);
    queue.append(blocks[0]!);
    queue.prepend(blocks[2]!);
    expect(ids(queue)).toEqual([2, 1, 3, 4, 0]);
    expect(queue.size).toBe(5);
  });

  it('refuses a block that is in it already, one that is not, and to pop nothing', () => {
    expect(() => queue.append(blocks[1]!)).toThrow(dead);
    for (let i = 0; i < 5; i++) queue.popFront();
    expect(queue.size).toBe(0);
    expect(() => queue.popFront()).toThrow(dead);
    expect(() => queue.remove(blocks[1]!)).toThrow(dead);
    queue.append(blocks[3]!);
    expect(ids(queue)).toEqual([3]);
  });
});

describe('BlockPool', () => {
  it('reserves block 0 and hands the others out in order', () => {
    const pool = new BlockPool(4, 2);
    expect([pool.numFreeBlocks, pool.numUsableBlocks, pool.usage]).toEqual([3, 3, 0]);
    expect(ids(pool.getNewBlocks(2))).toEqual([1, 2]);
    expect(pool.usage).toBeCloseTo(2 / 3);
    expect(() => pool.getNewBlocks(2)).toThrow(dead);
    expect(ids(pool.getNewBlocks(1))).toEqual([3]);
    pool.freeBlocks([pool.nullBlock]);
    pool.checkInvariants();
  });

  it('refuses sizes that make no pool', () => {
    const config = expect.objectContaining({ code: 'ERR_KVASIR_CONFIG' });
    expect(() => new BlockPool(1, 16)).toThrow(config);
    expect(() => new BlockPool(4, 0)).toThrow(config);
  });

  it('detects a double free', () => {
    const pool = new BlockPool(3, 2);
    const blocks = pool.getNewBlocks(1);
    pool.freeBlocks(blocks);
    expect(() => pool.freeBlocks(blocks)).toThrow(dead);
    pool.checkInvariants();
  });

  it('puts cached blocks at the back of the free queue and others at the front', () => {
    const pool = new BlockPool(6, 2);
    const [a, b, c] = pool.getNewBlocks(3);
    pool.cacheFullBlock(a!, node(pool, [1, 2]));
    pool.freeBlocks([c!, b!, a!]);
    expect(pool.freeBlockIds()).toEqual([2, 3, 4, 5, 1]);
  });

  it('keeps a shared block until its last reference is gone', () => {
    const pool = new BlockPool(3, 2);
    const blocks = pool.getNewBlocks(1);
    pool.touch(blocks);
    pool.freeBlocks(blocks);
    expect(pool.numFreeBlocks).toBe(1);
    pool.freeBlocks(blocks);
    expect(pool.numFreeBlocks).toBe(2);
  });

  it('finds a free block until it is handed out again; touching takes it out of the queue', () => {
    const pool = new BlockPool(3, 2);
    const [a] = pool.getNewBlocks(1);
    pool.cacheFullBlock(a!, node(pool, [1, 2]));
    pool.freeBlocks([a!]);
    expect(cached(pool, [1, 2])).toBe(a);
    pool.touch([a!]);
    expect(pool.freeBlockIds()).toEqual([2]);
    pool.freeBlocks([a!]);
    expect(ids(pool.getNewBlocks(2))).toEqual([2, 1]);
    expect(cached(pool, [1, 2])).toBeNull();
    expect(pool.numCachedBlocks).toBe(0);
    pool.checkInvariants();
  });

  it('finds the other of two blocks with the same contents when one is evicted', () => {
    const pool = new BlockPool(3, 2);
    const [a, b] = pool.getNewBlocks(2);
    pool.cacheFullBlock(a!, node(pool, [1, 2]));
    pool.cacheFullBlock(b!, node(pool, [1, 2]));
    expect(pool.numCachedBlocks).toBe(2);
    pool.freeBlocks([a!]);
    expect(ids(pool.getNewBlocks(1))).toEqual([1]);
    expect(cached(pool, [1, 2])).toBe(b);
    pool.checkInvariants();
  });

  it('refuses to publish a block twice', () => {
    const pool = new BlockPool(2, 2);
    const [a] = pool.getNewBlocks(1);
    pool.cacheFullBlock(a!, node(pool, [1, 2]));
    expect(() => pool.cacheFullBlock(a!, node(pool, [3, 4]))).toThrow(dead);
    expect(() => pool.cacheFullBlock(pool.nullBlock, node(pool, [3, 4]))).toThrow(dead);
  });

  it('withdraws blocks in use from the cache', () => {
    const pool = new BlockPool(3, 2);
    const [a] = pool.getNewBlocks(1);
    pool.cacheFullBlock(a!, node(pool, [1, 2]));
    pool.withdrawBlocks([a!]);
    expect(cached(pool, [1, 2])).toBeNull();
    pool.freeBlocks([a!]);
    expect(pool.freeBlockIds()).toEqual([1, 2]);
    pool.checkInvariants();
  });

  it('withdraws a prefix with all that goes on from it, also what is published later', () => {
    const pool = new BlockPool(6, 2);
    const [a, b, c, d] = pool.getNewBlocks(4);
    const first = node(pool, [1, 2]);
    const second = node(pool, [3, 4], first);
    for (const [block, of] of [[a, first], [b, second]] as const) pool.cacheFullBlock(block!, of);
    pool.prefixes.retain(second);
    pool.withdrawPrefix(second);
    pool.cacheFullBlock(c!, node(pool, [5, 6], second));
    pool.cacheFullBlock(d!, node(pool, [1, 2]));
    const fresh = node(pool, [1, 2]);
    expect([fresh === first, fresh.block(0)]).toEqual([false, d]);
    expect(pool.prefixes.find({ hash: '3,4', tokenIds: [3, 4], parent: fresh, extraKey: null, start: 0 })).toBeNull();
    pool.checkInvariants();
    pool.freeBlocks([a!, b!, c!, d!]);
    pool.prefixes.release(second);
    pool.getNewBlocks(5);
    expect([...pool.prefixes]).toEqual([]);
    pool.checkInvariants();
  });

  it('resets only when no block is in use', () => {
    const pool = new BlockPool(3, 2);
    const [a] = pool.getNewBlocks(1);
    pool.cacheFullBlock(a!, node(pool, [1, 2]));
    expect(pool.resetPrefixCache()).toBe(false);
    expect(pool.numCachedBlocks).toBe(1);
    pool.freeBlocks([a!]);
    expect(pool.resetPrefixCache()).toBe(true);
    expect(pool.numCachedBlocks).toBe(0);
    expect(cached(pool, [1, 2])).toBeNull();
    pool.checkInvariants();
  });

  it('counts blocks in use by group, a shared one once, and the most there ever were', () => {
    const pool = new BlockPool(8, 2, 2);
    const [a, b, c] = pool.getNewBlocks(3);
    expect([a, b, c].map((block) => block!.group)).toEqual([0, 1, 0]);
    pool.touch([c!, pool.nullBlock]);
    expect([pool.blocksHeld, pool.peakBlocksHeld]).toEqual([[2, 1], [2, 1]]);
    pool.freeBlocks([a!, b!, c!]);
    expect([pool.blocksHeld, pool.peakBlocksHeld]).toEqual([[1, 0], [2, 1]]);
    pool.checkInvariants();
    pool.freeBlock(c!);
    pool.touch([b!]);
    expect([pool.blocksHeld, pool.peakBlocksHeld]).toEqual([[0, 1], [2, 1]]);
    pool.checkInvariants();
  });

  it('has an invariants check that notices damage', () => {
    const lost = new BlockPool(3, 2);
    lost.getNewBlocks(1)[0]!.refCount = 0;
    expect(() => lost.checkInvariants()).toThrow(dead);
    const stale = new BlockPool(3, 2);
    const [a] = stale.getNewBlocks(1);
    stale.cacheFullBlock(a!, node(stale, [1, 2]));
    a!.node = null;
    expect(() => stale.checkInvariants()).toThrow(dead);
    const leaking = new BlockPool(3, 2);
    node(leaking, [1, 2]);
    expect(() => leaking.checkInvariants()).toThrow(dead);
  });
});
