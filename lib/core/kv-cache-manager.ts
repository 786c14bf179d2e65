import { firstVisibleBlock, maxBlocksHeld } from '../config/kv-cache-groups';
import type { KVCacheGroupSpec } from '../config/kv-cache-groups';
import { BlockHasher, blockExtraKey } from './block-hash';
import type { BlockHashFn } from './block-hash';
import { BlockPool } from './block-pool';
import type { KVCacheBlock } from './free-block-queue';
import { findCachedPrefix } from './prefix-search';
import type { CachedPrefix } from './prefix-search';
import type { PrefixKey, PrefixNode } from './prefix-tree';
import type { Request } from './request';

export interface KVCacheManagerOptions {
  /** The null block included. */
  readonly numBlocks: number;
  /** Tokens per block. */
  readonly blockSize: number;
  readonly enablePrefixCaching: boolean;
  /** Default: one group of layers that see everything. */
  readonly groups?: readonly Pick<KVCacheGroupSpec, 'slidingWindow'>[];
  /** Test hook: another hash, for example a truncated one. */
  readonly hashFn?: BlockHashFn;
}

/** No blocks: what a request in the middle of a block is given. */
export const NO_BLOCKS: readonly KVCacheBlock[] = Object.freeze([]);

/** Nothing in the cache. */
export const NO_PREFIX: CachedPrefix = Object.freeze({ numBlocks: 0, blocks: NO_BLOCKS, node: null });

/** What a request holds of the pool. */
export interface BlockTable {
  /**
   * Of G groups, entry i * G + g is the block that holds tokens [i * blockSize, (i + 1) * blockSize) for group g; the null block
   * where the layers of the group will never look again.
   */
  readonly blocks: KVCacheBlock[];
  /** Leading places of which all blocks are in the prefix cache, or were found there; and the prefix that they make. */
  numCachedBlocks: number;
  prefix: PrefixNode | null;
  /** Leading places whose blocks were given back, by group; null when no group has a window. */
  readonly numSkipped: number[] | null;
}

/**
 * Gives requests their KV blocks and keeps the prefix cache (vllm.v1.core.kv_cache_manager.KVCacheManager and, for layers with
 * sliding windows, vllm.v1.core.kv_cache_coordinator).
 *
 * Layers that see the same keys form a group. A request has a block table for each group, and they are equally long; but in a group
 * with a sliding window, blocks that lie before the window are given back while the request runs.
 */
export class KVCacheManager {
  readonly pool: BlockPool;
  readonly blockSize: number;
  readonly enablePrefixCaching: boolean;
  private readonly windows: readonly (number | null)[];
  private readonly hasWindows: boolean;
  private readonly hasher: BlockHasher;

  constructor(options: KVCacheManagerOptions) {
    this.windows = options.groups?.map((group) => group.slidingWindow) ?? [null];
    this.hasWindows = this.windows.some((window) => window !== null);
    this.pool = new BlockPool(options.numBlocks, options.blockSize, this.windows.length);
    this.blockSize = options.blockSize;
    this.enablePrefixCaching = options.enablePrefixCaching;
    this.hasher = new BlockHasher(options.blockSize, options.hashFn);
  }

  /** Share of the pool in use, 0..1. */
  get usage(): number {
    return this.pool.usage;
  }

  /**
   * Tokens that one request can hold when it has the whole pool: a multiple of blockSize, at most `limit` rounded up to one.
   * @param maxStepTokens most tokens that one step adds to a request; they need room beside the window
   */
  capacityTokens(limit: number, maxStepTokens: number): number {
    const needed = (numTokens: number): number => this.windows.reduce<number>((sum, window) => sum + maxBlocksHeld(window, numTokens, maxStepTokens, this.blockSize), 0);
    let [low, high] = [0, Math.ceil(limit / this.blockSize)]; // in blocks: `low` fits
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if (needed(middle * this.blockSize) <= this.pool.numUsableBlocks) low = middle;
      else high = middle - 1;
    }
    return low * this.blockSize;
  }

  /** Whether this request's prefix is looked up at all. */
  readsPrefixCache(request: Request): boolean {
    return this.enablePrefixCaching && !request.skipsPrefixCacheRead;
  }

  /**
   * The longest cached prefix of a request that waits. At least the last token is left to compute, for its logits are
   * needed: at most numTokens - 1 tokens hit, rounded down to whole blocks. Nothing is reserved yet.
   */
  getComputedBlocks(request: Request): CachedPrefix {
    if (!this.readsPrefixCache(request)) return NO_PREFIX;
    request.updateBlockHashes(this.hasher);
    const maxBlocks = Math.floor((request.numTokens - 1) / this.blockSize);
    if (maxBlocks === 0 || this.pool.prefixes.find(this.prefixKey(request, 0, null)) === null) return NO_PREFIX;
    const nodeAt = (index: number, parent: PrefixNode | null): PrefixNode | null => this.pool.prefixes.find(this.prefixKey(request, index, parent));
    return findCachedPrefix(nodeAt, maxBlocks, { windows: this.windows, blockSize: this.blockSize, nullBlock: this.pool.nullBlock });
  }

  /**
   * Reserves room for `numNewTokens` tokens after the computed ones, in all groups or in none.
   *
   * Full blocks are published at once, before the worker has written them: whoever hits them runs in the same step or a
   * later one, and a step writes the KV of all its tokens before it attends, layer by layer. With `delayCaching` the
   * caller publishes later through {@link cacheBlocks}; it must when it may still take the request out of the step, as
   * then the blocks would never be written.
   *
   * Blocks that the layers of a group will never look at again are given back first, whatever comes of the rest. Steps in flight
   * may still read them; but who gets them writes them in a later step, and the device runs steps one after another.
   * @param cached what {@link getComputedBlocks} found, for a request that is being admitted
   * @returns the new blocks (without the cached ones) in the order of {@link BlockTable.blocks}; or null, when the pool has too few
   */
  allocateSlots(request: Request, numNewTokens: number, cached: CachedPrefix = NO_PREFIX, options: { delayCaching?: boolean } = {}): readonly KVCacheBlock[] | null {
    const table = request.blockTable;
    if (table !== null && this.hasWindows) this.freeOutOfSight(table, request.numComputedTokens);
    const numGroups = this.windows.length;
    const numComputed = request.numComputedTokens + cached.numBlocks * this.blockSize;
    const numHeld = (table?.blocks.length ?? 0) + cached.blocks.length;
    const numNew = Math.max(0, Math.ceil((numComputed + numNewTokens) / this.blockSize) * numGroups - numHeld);
    if (table !== null && numNew === 0 && cached.numBlocks === 0) {
      if (options.delayCaching !== true) this.cacheBlocks(request, numComputed + numNewTokens);
      return NO_BLOCKS;
    }
    // Hit blocks that are free right now leave the free queue too, so they cannot also serve as new blocks.
    const numFreeHits = cached.blocks.reduce((count, block) => count + (block.refCount === 0 ? 1 : 0), 0);
    if (numNew > this.pool.numFreeBlocks - numFreeHits) return null;

    this.pool.touch(cached.blocks);
    const newBlocks = this.pool.getNewBlocks(numNew);
    const target = table ?? this.createTable(request, cached);
    for (const block of newBlocks) target.blocks.push(block);
    if (options.delayCaching !== true) this.cacheBlocks(request, numComputed + numNewTokens);
    return newBlocks;
  }

  /** Publishes the blocks that are full once `numComputedTokens` tokens are computed. Tokens not yet sampled never count. */
  cacheBlocks(request: Request, numComputedTokens: number): void {
    const table = request.blockTable;
    if (!this.enablePrefixCaching || table === null) return;
    const numFull = Math.floor(Math.min(numComputedTokens, request.numTokens) / this.blockSize);
    if (numFull <= table.numCachedBlocks) return;
    request.updateBlockHashes(this.hasher);
    const { pool } = this;
    const numGroups = this.windows.length;
    let node = table.prefix;
    for (let index = table.numCachedBlocks; index < numFull; index++) {
      node = pool.prefixes.findOrAdd(this.prefixKey(request, index, node));
      for (let at = index * numGroups; at < (index + 1) * numGroups; at++) {
        const block = table.blocks[at]!;
        // With a window shorter than what was computed ahead of the known tokens, a block can be gone before its tokens are known.
        if (block !== pool.nullBlock) pool.cacheFullBlock(block, node);
      }
    }
    table.numCachedBlocks = numFull;
    pool.prefixes.retain(node);
    pool.prefixes.release(table.prefix);
    table.prefix = node;
  }

  /** Gives the blocks of a request back, the end of the sequence first. No effect for a request without blocks. */
  free(request: Request): void {
    const table = request.blockTable;
    if (table === null) return;
    request.blockTable = null;
    this.pool.freeBlocks(table.blocks.reverse());
    this.pool.prefixes.release(table.prefix);
  }

  /** Takes everything a request computed or used out of the prefix cache: its KV is not to be trusted. */
  withdrawCached(request: Request): void {
    const table = request.blockTable;
    if (table === null) return;
    // Out of sight, and given back, may be blocks that it published: they are out of reach with the prefix.
    if (table.prefix !== null) this.pool.withdrawPrefix(table.prefix);
    this.pool.withdrawBlocks(table.blocks);
  }

  /** Block table of a request, in the order of {@link BlockTable.blocks}; empty when it has none. */
  blockIds(request: Request): number[] {
    return (request.blockTable?.blocks ?? NO_BLOCKS).map((block) => block.blockId);
  }

  /** Empties the prefix cache; false, and nothing done, while any request holds blocks. */
  resetPrefixCache(): boolean {
    return this.pool.resetPrefixCache();
  }

  private createTable(request: Request, cached: CachedPrefix): BlockTable {
    const { numBlocks, node } = cached;
    this.pool.prefixes.retain(node);
    const numSkipped = this.hasWindows ? this.windows.map((window) => firstVisibleBlock(window, numBlocks * this.blockSize, this.blockSize)) : null;
    return (request.blockTable = { blocks: cached.blocks.slice(), numCachedBlocks: numBlocks, prefix: node, numSkipped });
  }

  /** Gives back what no query at `numComputedTokens` or later can see. */
  private freeOutOfSight({ blocks, numSkipped }: BlockTable, numComputedTokens: number): void {
    const numGroups = this.windows.length;
    for (let group = 0; group < numGroups; group++) {
      const first = firstVisibleBlock(this.windows[group]!, numComputedTokens, this.blockSize);
      for (let index = numSkipped![group]!; index < first; index++) {
        const at = index * numGroups + group;
        this.pool.freeBlock(blocks[at]!);
        blocks[at] = this.pool.nullBlock;
      }
      if (first > numSkipped![group]!) numSkipped![group] = first;
    }
  }

  private prefixKey(request: Request, index: number, parent: PrefixNode | null): PrefixKey {
    return {
      hash: request.blockHashes[index]!,
      parent,
      tokenIds: request.tokenIds,
      start: index * this.blockSize,
      extraKey: blockExtraKey(index, request.cacheSalt),
    };
  }
}
