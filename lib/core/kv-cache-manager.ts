import { BlockHasher, blockExtraKey } from './block-hash';
import type { BlockHashFn } from './block-hash';
import { BlockPool } from './block-pool';
import { ROOT_CONTENT_ID } from './free-block-queue';
import type { KVCacheBlock } from './free-block-queue';
import type { Request } from './request';

export interface KVCacheManagerOptions {
  /** The null block included. */
  readonly numBlocks: number;
  /** Tokens per block. */
  readonly blockSize: number;
  readonly enablePrefixCaching: boolean;
  /** Test hook: another hash, for example a truncated one. */
  readonly hashFn?: BlockHashFn;
}

interface BlockTable {
  readonly blocks: KVCacheBlock[];
  /** Leading blocks that are in the prefix cache, or were found there. */
  numCachedBlocks: number;
}

/**
 * Gives requests their KV blocks and keeps the prefix cache (vllm.v1.core.kv_cache_manager.KVCacheManager).
 *
 * All layers share one block table per request (full attention). A sliding-window group would get a table and a hit rule
 * of its own here; the pool and the scheduler would not change.
 */
export class KVCacheManager {
  readonly pool: BlockPool;
  readonly blockSize: number;
  readonly enablePrefixCaching: boolean;
  private readonly hasher: BlockHasher;
  private readonly tables = new Map<Request, BlockTable>();

  constructor(options: KVCacheManagerOptions) {
    this.pool = new BlockPool(options.numBlocks, options.blockSize);
    this.blockSize = options.blockSize;
    this.enablePrefixCaching = options.enablePrefixCaching;
    this.hasher = new BlockHasher(options.blockSize, options.hashFn);
  }

  /** Tokens that one request can hold when it has the whole pool. */
  get capacityTokens(): number {
    return this.pool.numUsableBlocks * this.blockSize;
  }

  /** Share of the pool in use, 0..1. */
  get usage(): number {
    return this.pool.usage;
  }

  /** Whether this request's prefix is looked up at all. */
  readsPrefixCache(request: Request): boolean {
    return this.enablePrefixCaching && !request.skipsPrefixCacheRead;
  }

  /**
   * The longest cached prefix of a request that waits. At least the last token is left to compute, for its logits are
   * needed: at most numTokens - 1 tokens hit, rounded down to whole blocks. Nothing is reserved yet.
   */
  getComputedBlocks(request: Request): KVCacheBlock[] {
    if (!this.readsPrefixCache(request)) return [];
    request.updateBlockHashes(this.hasher);
    const maxBlocks = Math.floor((request.numTokens - 1) / this.blockSize);
    const found: KVCacheBlock[] = [];
    let parentContentId = ROOT_CONTENT_ID;
    for (let index = 0; index < maxBlocks; index++) {
      const block = this.pool.getCachedBlock(this.blockKey(request, index, parentContentId));
      if (block === null) break;
      found.push(block);
      parentContentId = block.content!.contentId;
    }
    return found;
  }

  /**
   * Reserves room for `numNewTokens` tokens after the computed ones.
   *
   * Full blocks are published at once, before the worker has written them: whoever hits them runs in the same step or a
   * later one, and a step writes the KV of all its tokens before it attends, layer by layer. With `delayCaching` the
   * caller publishes later through {@link cacheBlocks}; it must when it may still take the request out of the step, as
   * then the blocks would never be written.
   * @param newComputedBlocks what {@link getComputedBlocks} found, for a request that is being admitted
   * @returns the new blocks (without newComputedBlocks), or null, and nothing changed, when the pool has too few
   */
  allocateSlots(
    request: Request,
    numNewTokens: number,
    newComputedBlocks: readonly KVCacheBlock[] = [],
    options: { delayCaching?: boolean } = {},
  ): KVCacheBlock[] | null {
    const table = this.tables.get(request);
    const numComputed = request.numComputedTokens + newComputedBlocks.length * this.blockSize;
    const numHeld = (table?.blocks.length ?? 0) + newComputedBlocks.length;
    const numNew = Math.max(0, Math.ceil((numComputed + numNewTokens) / this.blockSize) - numHeld);
    // Hit blocks that are free right now leave the free queue too, so they cannot also serve as new blocks.
    const numFreeHits = newComputedBlocks.reduce((count, block) => count + (block.refCount === 0 ? 1 : 0), 0);
    if (numNew > this.pool.numFreeBlocks - numFreeHits) return null;

    this.pool.touch(newComputedBlocks);
    const newBlocks = this.pool.getNewBlocks(numNew);
    const target = table ?? this.createTable(request);
    for (const block of newComputedBlocks) target.blocks.push(block);
    for (const block of newBlocks) target.blocks.push(block);
    target.numCachedBlocks += newComputedBlocks.length;
    if (options.delayCaching !== true) this.cacheBlocks(request, numComputed + numNewTokens);
    return newBlocks;
  }

  /** Publishes the blocks that are full once `numComputedTokens` tokens are computed. Tokens not yet sampled never count. */
  cacheBlocks(request: Request, numComputedTokens: number): void {
    const table = this.tables.get(request);
    if (!this.enablePrefixCaching || table === undefined) return;
    const numFull = Math.floor(Math.min(numComputedTokens, request.numTokens) / this.blockSize);
    if (numFull <= table.numCachedBlocks) return;
    request.updateBlockHashes(this.hasher);
    for (let index = table.numCachedBlocks; index < numFull; index++) {
      const parentContentId = index === 0 ? ROOT_CONTENT_ID : table.blocks[index - 1]!.contentId!;
      this.pool.cacheFullBlock(table.blocks[index]!, this.blockKey(request, index, parentContentId));
    }
    table.numCachedBlocks = numFull;
  }

  /** Gives the blocks of a request back, the end of the sequence first. No effect for a request without blocks. */
  free(request: Request): void {
    const table = this.tables.get(request);
    if (table === undefined) return;
    this.tables.delete(request);
    this.pool.freeBlocks(table.blocks.reverse());
  }

  /** Takes everything a request computed or used out of the prefix cache: its KV is not to be trusted. */
  withdrawCached(request: Request): void {
    this.pool.withdrawBlocks(this.tables.get(request)?.blocks ?? []);
  }

  /** Block table of a request; empty when it has none. */
  blockIds(request: Request): number[] {
    return (this.tables.get(request)?.blocks ?? []).map((block) => block.blockId);
  }

  /** Empties the prefix cache; false, and nothing done, while any request holds blocks. */
  resetPrefixCache(): boolean {
    return this.pool.resetPrefixCache();
  }

  private createTable(request: Request): BlockTable {
    const table: BlockTable = { blocks: [], numCachedBlocks: 0 };
    this.tables.set(request, table);
    return table;
  }

  private blockKey(request: Request, index: number, parentContentId: number) {
    return {
      hash: request.blockHashes[index]!,
      parentContentId,
      tokenIds: request.tokenIds,
      start: index * this.blockSize,
      extraKey: blockExtraKey(index, request.cacheSalt),
    };
  }
}
