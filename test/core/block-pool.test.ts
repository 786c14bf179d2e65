import { BlockPool } from '../../lib/core/block-pool';
import type { BlockKey } from '../../lib/core/block-pool';
import { FreeBlockQueue, KVCacheBlock, ROOT_CONTENT_ID } from '../../lib/core/free-block-queue';

const key = (hash: string, tokenIds: number[], parentContentId = ROOT_CONTENT_ID, extraKey: string | null = null): BlockKey => ({
  hash, tokenIds, parentContentId, extraKey, start: 0,
});
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
    pool.cacheFullBlock(a!, key('a', [1, 2]));
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
    pool.cacheFullBlock(a!, key('a', [1, 2]));
    pool.freeBlocks([a!]);
    expect(pool.getCachedBlock(key('a', [1, 2]))).toBe(a);
    pool.touch([a!]);
    expect(pool.freeBlockIds()).toEqual([2]);
    pool.freeBlocks([a!]);
    expect(ids(pool.getNewBlocks(2))).toEqual([2, 1]);
    expect(pool.getCachedBlock(key('a', [1, 2]))).toBeNull();
    expect(pool.numCachedBlocks).toBe(0);
    pool.checkInvariants();
  });

  it('compares tokens, parent and extra key on a hit, not only the hash', () => {
    const pool = new BlockPool(9, 2);
    const [a, b] = pool.getNewBlocks(2);
    pool.cacheFullBlock(a!, key('h', [1, 2], ROOT_CONTENT_ID, 'salt'));
    const parent = a!.content!.contentId;
    pool.cacheFullBlock(b!, key('h', [3, 4], parent));
    expect(pool.getCachedBlock(key('h', [1, 2], ROOT_CONTENT_ID, 'salt'))).toBe(a);
    expect(pool.getCachedBlock(key('h', [3, 4], parent))).toBe(b);
    expect(pool.getCachedBlock(key('h', [1, 2]))).toBeNull();
    expect(pool.getCachedBlock(key('h', [1, 3], ROOT_CONTENT_ID, 'salt'))).toBeNull();
    expect(pool.getCachedBlock(key('h', [3, 4]))).toBeNull();
    expect(pool.getCachedBlock(key('h', [3, 4], parent + 1))).toBeNull();
  });

  it('gives duplicates of the same contents one identity, and finds the other when one is evicted', () => {
    const pool = new BlockPool(3, 2);
    const [a, b] = pool.getNewBlocks(2);
    pool.cacheFullBlock(a!, key('h', [1, 2]));
    pool.cacheFullBlock(b!, key('h', [1, 2]));
    expect(b!.content!.contentId).toBe(a!.content!.contentId);
    expect(pool.numCachedBlocks).toBe(2);
    pool.freeBlocks([a!]);
    expect(ids(pool.getNewBlocks(1))).toEqual([1]);
    expect(pool.getCachedBlock(key('h', [1, 2]))).toBe(b);
    pool.checkInvariants();
  });

  it('never gives new contents the identity of evicted ones', () => {
    const pool = new BlockPool(2, 2);
    const [a] = pool.getNewBlocks(1);
    pool.cacheFullBlock(a!, key('h', [1, 2]));
    const before = a!.content!.contentId;
    pool.freeBlocks([a!]);
    pool.getNewBlocks(1);
    pool.cacheFullBlock(a!, key('h', [1, 2]));
    expect(a!.content!.contentId).not.toBe(before);
  });

  it('refuses to publish a block twice', () => {
    const pool = new BlockPool(2, 2);
    const [a] = pool.getNewBlocks(1);
    pool.cacheFullBlock(a!, key('h', [1, 2]));
    expect(() => pool.cacheFullBlock(a!, key('i', [1, 2]))).toThrow(dead);
    expect(() => pool.cacheFullBlock(pool.nullBlock, key('i', [1, 2]))).toThrow(dead);
  });

  it('withdraws blocks in use from the cache and keeps their identity for their children', () => {
    const pool = new BlockPool(3, 2);
    const [a] = pool.getNewBlocks(1);
    pool.cacheFullBlock(a!, key('h', [1, 2]));
    const id = a!.contentId;
    pool.withdrawBlocks([a!]);
    expect(pool.getCachedBlock(key('h', [1, 2]))).toBeNull();
    expect(a!.contentId).toBe(id);
    pool.freeBlocks([a!]);
    expect(pool.freeBlockIds()).toEqual([1, 2]);
    pool.checkInvariants();
  });

  it('resets only when no block is in use', () => {
    const pool = new BlockPool(3, 2);
    const [a] = pool.getNewBlocks(1);
    pool.cacheFullBlock(a!, key('h', [1, 2]));
    expect(pool.resetPrefixCache()).toBe(false);
    expect(pool.numCachedBlocks).toBe(1);
    pool.freeBlocks([a!]);
    expect(pool.resetPrefixCache()).toBe(true);
    expect(pool.numCachedBlocks).toBe(0);
    expect(pool.getCachedBlock(key('h', [1, 2]))).toBeNull();
    pool.checkInvariants();
  });

  it('has an invariants check that notices damage', () => {
    const lost = new BlockPool(3, 2);
    lost.getNewBlocks(1)[0]!.refCount = 0;
    expect(() => lost.checkInvariants()).toThrow(dead);
    const stale = new BlockPool(3, 2);
    const [a] = stale.getNewBlocks(1);
    stale.cacheFullBlock(a!, key('h', [1, 2]));
    a!.content = null;
    expect(() => stale.checkInvariants()).toThrow(dead);
  });
});
