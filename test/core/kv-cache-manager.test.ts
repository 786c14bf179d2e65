import { KVCacheManager, NO_PREFIX } from '../../lib/core/kv-cache-manager';
import type { KVCacheManagerOptions } from '../../lib/core/kv-cache-manager';
import type { Request } from '../../lib/core/request';
import { range, request } from './fixtures/requests';

const create = (options: Partial<KVCacheManagerOptions> = {}): KVCacheManager =>
  new KVCacheManager({ numBlocks: 11, blockSize: 16, enablePrefixCaching: true, ...options });
const ids = (blocks: readonly { blockId: number }[] | null): number[] | null => blocks && blocks.map((b) => b.blockId);

/** Admits and computes a whole prompt, as one step would. */
function prefill(manager: KVCacheManager, r: Request): { hit: number; blocks: number[] | null } {
  const computed = manager.getComputedBlocks(r);
  const hit = computed.numBlocks * manager.blockSize;
  const blocks = manager.allocateSlots(r, r.numTokens - hit, computed);
  if (blocks !== null) r.numComputedTokens = r.numTokens;
  return { hit, blocks: ids(blocks) };
}

const common = [...Array(16).fill(0), ...Array(16).fill(1), ...Array(16).fill(2)] as number[];

describe('KVCacheManager', () => {
  it('reproduces the block ids of the reference trace', () => {
    const manager = create();
    const first = request('0', [...common, ...Array(7).fill(3)]);
    expect(prefill(manager, first)).toEqual({ hit: 0, blocks: [1, 2, 3, 4] });
    expect(first.numTokens).toBe(55);
    expect(first.blockHashes).toHaveLength(3);
    expect(manager.pool.numCachedBlocks).toBe(3);

    const second = request('1', [...common, ...Array(5).fill(4)]);
    expect(prefill(manager, second)).toEqual({ hit: 48, blocks: [5] });
    expect(manager.blockIds(second)).toEqual([1, 2, 3, 5]);
    expect(manager.pool.freeBlockIds()).toEqual([6, 7, 8, 9, 10]);

    manager.free(first);
    manager.free(second);
    expect(manager.pool.freeBlockIds()).toEqual([5, 4, 6, 7, 8, 9, 10, 3, 2, 1]);
    expect(manager.usage).toBe(0);

    const third = request('2', [...common, ...Array(7).fill(3)]);
    expect(prefill(manager, third)).toEqual({ hit: 48, blocks: [5] });
    manager.free(third);

    // Ten blocks for one request: the front of the queue first, cached blocks from the end of their sequence.
    const last = request('3', range(160, 1000));
    expect(prefill(manager, last)).toEqual({ hit: 0, blocks: [5, 4, 6, 7, 8, 9, 10, 3, 2, 1] });
    expect(manager.pool.numCachedBlocks).toBe(10);
    manager.free(last);
    manager.pool.checkInvariants();
  });

  it('leaves the last token of a fully cached prompt to compute', () => {
    const manager = create();
    const first = request('0', range(32));
    prefill(manager, first);
    expect(prefill(manager, request('same', range(32)))).toEqual({ hit: 16, blocks: [3] });
    expect(prefill(manager, request('longer', range(33)))).toEqual({ hit: 32, blocks: [4] });
    expect(prefill(manager, request('shorter', range(16)))).toEqual({ hit: 0, blocks: [5] });
  });

  it('publishes blocks as outputs fill them, and lets a later request hit them', () => {
    const manager = create({ blockSize: 4 });
    const first = request('0', range(6));
    prefill(manager, first);
    expect(manager.pool.numCachedBlocks).toBe(1);
    for (const token of [6, 7, 8]) {
      first.appendOutputToken(token);
      expect(manager.allocateSlots(first, 1)).toHaveLength(token === 8 ? 1 : 0);
      first.numComputedTokens++;
    }
    expect(manager.pool.numCachedBlocks).toBe(2);
    expect(prefill(manager, request('1', range(9))).hit).toBe(8);
  });

  it('does not publish what is computed ahead of the known tokens', () => {
    const manager = create({ blockSize: 4 });
    const first = request('0', range(3));
    manager.allocateSlots(first, 4);
    expect(manager.pool.numCachedBlocks).toBe(0);
  });

  it('publishes later with delayCaching', () => {
    const manager = create({ blockSize: 4 });
    const first = request('0', range(8));
    manager.allocateSlots(first, 8, NO_PREFIX, { delayCaching: true });
    expect(manager.pool.numCachedBlocks).toBe(0);
    manager.cacheBlocks(first, 8);
    expect(manager.pool.numCachedBlocks).toBe(2);
    manager.cacheBlocks(first, 8);
    expect(manager.pool.numCachedBlocks).toBe(2);
  });

  it('returns null and changes nothing when the pool has too few blocks', () => {
    const manager = create({ numBlocks: 4 });
    const first = request('0', range(20));
    prefill(manager, first);
    const second = request('1', range(33, 500));
    expect(prefill(manager, second).blocks).toBeNull();
    expect(manager.blockIds(second)).toEqual([]);
    expect(manager.pool.freeBlockIds()).toEqual([3]);
    manager.pool.checkInvariants();
  });

  it('does not count a free block it hits as room for new ones', () => {
    const manager = create({ numBlocks: 4 });
    const first = request('0', range(32));
    prefill(manager, first);
    manager.free(first);
    prefill(manager, request('other', range(5, 900)));
    // Free: the two cached blocks. A prompt of 48 + 1 tokens hits both and needs two more.
    const second = request('1', range(49));
    expect(manager.getComputedBlocks(second).numBlocks).toBe(2);
    expect(prefill(manager, second).blocks).toBeNull();
    expect(manager.pool.freeBlockIds()).toEqual([2, 1]);
  });

  it('never shares across cache salts', () => {
    const manager = create();
    prefill(manager, request('0', range(40), { cacheSalt: 'a' }));
    expect(manager.getComputedBlocks(request('1', range(40), { cacheSalt: 'b' })).numBlocks).toBe(0);
    expect(manager.getComputedBlocks(request('2', range(40))).numBlocks).toBe(0);
    expect(manager.getComputedBlocks(request('3', range(40), { cacheSalt: 'a' })).numBlocks).toBe(2);
  });

  it('stays right when every hash collides', () => {
    const manager = create({ hashFn: () => 'x', blockSize: 4 });
    prefill(manager, request('0', [1, 2, 3, 4, 5, 6, 7, 8, 9]));
    expect(manager.getComputedBlocks(request('1', [5, 6, 7, 8, 5, 6, 7, 8, 9])).numBlocks).toBe(0);
    expect(ids(manager.getComputedBlocks(request('2', [1, 2, 3, 4, 5, 6, 7, 0, 9])).blocks)).toEqual([1]);
    expect(ids(manager.getComputedBlocks(request('3', [1, 2, 3, 4, 5, 6, 7, 8, 0])).blocks)).toEqual([1, 2]);
    expect(manager.getComputedBlocks(request('4', [1, 2, 3, 4, 5, 6, 7, 8, 0], { cacheSalt: 's' })).numBlocks).toBe(0);
  });

  it('neither hashes nor hits with prefix caching off, nor reads the cache for prompt logprobs', () => {
    const off = create({ enablePrefixCaching: false });
    const first = request('0', range(40));
    prefill(off, first);
    expect(first.blockHashes).toHaveLength(0);
    expect(off.pool.numCachedBlocks).toBe(0);
    expect(prefill(off, request('1', range(40))).hit).toBe(0);

    const on = create();
    prefill(on, request('0', range(40)));
    expect(prefill(on, request('1', range(40), { params: { promptLogprobs: 0 } })).hit).toBe(0);
  });

  it('withdraws what a failed request wrote, children of it included', () => {
    const manager = create({ blockSize: 4 });
    const failed = request('0', range(9));
    prefill(manager, failed);
    const sharing = request('1', range(9));
    prefill(manager, sharing);
    manager.withdrawCached(failed);
    manager.free(failed);
    expect(manager.getComputedBlocks(request('2', range(9))).numBlocks).toBe(0);
    // The request that shares the blocks fills another one: published, but out of reach without its parents.
    for (let token = 9; token < 12; token++) sharing.appendOutputToken(token);
    manager.allocateSlots(sharing, 3);
    expect(manager.getComputedBlocks(request('3', range(13))).numBlocks).toBe(0);
    manager.free(sharing);
    manager.pool.checkInvariants();
    expect(manager.pool.numFreeBlocks).toBe(10);
  });

  it('frees once, and resets only when idle', () => {
    const manager = create();
    const first = request('0', range(40));
    prefill(manager, first);
    expect(manager.resetPrefixCache()).toBe(false);
    manager.free(first);
    manager.free(first);
    expect(manager.pool.numFreeBlocks).toBe(10);
    expect(manager.resetPrefixCache()).toBe(true);
    expect(prefill(manager, request('1', range(40))).hit).toBe(0);
  });
});
