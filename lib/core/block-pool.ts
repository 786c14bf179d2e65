import { KvasirError } from '../utils/errors';
import type { BlockHash } from './block-hash';
import { FreeBlockQueue, KVCacheBlock } from './free-block-queue';

/** The contents a lookup wants: `blockSize` tokens of `tokenIds` from `start`, after the prefix `parentContentId`. */
export interface BlockKey {
  readonly hash: BlockHash;
  readonly parentContentId: number;
  readonly tokenIds: readonly number[];
  readonly start: number;
  readonly extraKey: string | null;
}

/**
 * All KV blocks, their reference counts, the free queue and the prefix cache (vllm.v1.core.block_pool.BlockPool).
 *
 * A free block stays in the prefix cache until it is handed out again, so the order of the free queue is the eviction
 * order: least recently used first. Block 0 is the null block: a placeholder that is never handed out.
 */
export class BlockPool {
  readonly numBlocks: number;
  readonly blockSize: number;
  readonly nullBlock: KVCacheBlock;
  private readonly blocks: readonly KVCacheBlock[];
  private readonly freeQueue: FreeBlockQueue;
  /**
   * hash -> blocks by id. Several blocks may hold the same contents (block tables are append-only, so nothing is merged
   * afterwards), and with a weak hash a bucket may hold different contents.
   */
  private readonly cached = new Map<BlockHash, Map<number, KVCacheBlock>>();
  private nextContentId = 1;

  /** @param numBlocks blocks in the pool, the null block included; at least 2 */
  constructor(numBlocks: number, blockSize: number) {
    if (!Number.isInteger(numBlocks) || numBlocks < 2) {
      throw new KvasirError('ERR_KVASIR_CONFIG', `numBlocks: expected an integer of at least 2 (block 0 is reserved), received ${numBlocks}`);
    }
    if (!Number.isInteger(blockSize) || blockSize < 1) {
      throw new KvasirError('ERR_KVASIR_CONFIG', `blockSize: expected a positive integer, received ${blockSize}`);
    }
    this.numBlocks = numBlocks;
    this.blockSize = blockSize;
    this.blocks = Array.from({ length: numBlocks }, (_, id) => new KVCacheBlock(id));
    this.nullBlock = this.blocks[0]!;
    this.nullBlock.refCount = 1;
    this.freeQueue = new FreeBlockQueue(this.blocks.slice(1));
  }

  get numFreeBlocks(): number {
    return this.freeQueue.size;
  }

  /** Blocks that requests can have at all. */
  get numUsableBlocks(): number {
    return this.numBlocks - 1;
  }

  /** Share of the usable blocks that is in use, 0..1. */
  get usage(): number {
    return 1 - this.numFreeBlocks / this.numUsableBlocks;
  }

  /** A published block with exactly these contents, or null. Equal hashes are not trusted: tokens, extra key and parent are compared. */
  getCachedBlock(key: BlockKey): KVCacheBlock | null {
    const bucket = this.cached.get(key.hash);
    if (bucket === undefined) return null;
    for (const block of bucket.values()) {
      if (this.holds(block, key)) return block;
    }
    return null;
  }

  /** Publishes a full block of a request, so that later requests find it. A block already published is an error. */
  cacheFullBlock(block: KVCacheBlock, key: BlockKey): void {
    if (block.content !== null || block === this.nullBlock) {
      throw new KvasirError('ERR_KVASIR_ENGINE_DEAD', `expected KV block ${block.blockId} not to be in the prefix cache yet`);
    }
    const contentId = this.getCachedBlock(key)?.content?.contentId ?? this.nextContentId++;
    const tokenIds = key.tokenIds.slice(key.start, key.start + this.blockSize);
    block.content = { hash: key.hash, contentId, parentContentId: key.parentContentId, tokenIds, extraKey: key.extraKey };
    block.contentId = contentId;
    const bucket = this.cached.get(key.hash);
    if (bucket === undefined) this.cached.set(key.hash, new Map([[block.blockId, block]]));
    else bucket.set(block.blockId, block);
  }

  /**
   * Takes `count` blocks from the front of the free queue with reference count 1; what they held leaves the prefix cache.
   * The caller has checked {@link numFreeBlocks}.
   */
  getNewBlocks(count: number): KVCacheBlock[] {
    if (count > this.numFreeBlocks) {
      throw new KvasirError('ERR_KVASIR_ENGINE_DEAD', `expected at most ${this.numFreeBlocks} KV blocks to be asked for, received ${count}`);
    }
    const taken: KVCacheBlock[] = [];
    for (let i = 0; i < count; i++) {
      const block = this.freeQueue.popFront();
      this.withdraw(block);
      block.contentId = null;
      block.refCount = 1;
      taken.push(block);
    }
    return taken;
  }

  /** Adds a reference to blocks found in the prefix cache; free ones leave the free queue and so cannot be evicted. */
  touch(blocks: readonly KVCacheBlock[]): void {
    for (const block of blocks) {
      if (block.refCount === 0) this.freeQueue.remove(block);
      block.refCount++;
    }
  }

  /**
   * Drops one reference of each block, in the given order; callers pass a block table from its end, so that the end of a
   * sequence is evicted before its beginning. A block that becomes free goes to the back of the queue when it is in the
   * prefix cache, and to the front when it is not: nobody can hit it, so it is the cheapest one to reuse.
   * @throws KvasirError ERR_KVASIR_ENGINE_DEAD when a block is freed more often than it was taken
   */
  freeBlocks(ordered: Iterable<KVCacheBlock>): void {
    for (const block of ordered) {
      if (block === this.nullBlock) continue;
      if (block.refCount === 0) {
        throw new KvasirError('ERR_KVASIR_ENGINE_DEAD', `expected KV block ${block.blockId} to be in use when freed, but it is free already`);
      }
      block.refCount--;
      if (block.refCount > 0) continue;
      if (block.content === null) this.freeQueue.prepend(block);
      else this.freeQueue.append(block);
    }
  }

  /** Takes blocks out of the prefix cache without freeing them: nobody can hit them any more. */
  withdrawBlocks(blocks: Iterable<KVCacheBlock>): void {
    for (const block of blocks) this.withdraw(block);
  }

  /** Empties the prefix cache. Only while no request holds a block; returns whether it was done. */
  resetPrefixCache(): boolean {
    if (this.numFreeBlocks !== this.numUsableBlocks) return false;
    for (const block of this.blocks) {
      block.content = null;
      block.contentId = null;
    }
    this.cached.clear();
    return true;
  }

  /** Block ids in the order in which they will be reused. O(free blocks): for tests. */
  freeBlockIds(): number[] {
    return Array.from(this.freeQueue, (block) => block.blockId);
  }

  /** Published blocks. O(hashes): for tests. */
  get numCachedBlocks(): number {
    let count = 0;
    for (const bucket of this.cached.values()) count += bucket.size;
    return count;
  }

  /**
   * Checks everything that must always hold: each block is either free or referenced, free + used is the whole pool, and
   * the prefix cache and the blocks agree. O(blocks): for tests.
   * @throws KvasirError ERR_KVASIR_ENGINE_DEAD naming the first violation
   */
  checkInvariants(): void {
    const fail = (what: string): never => {
      throw new KvasirError('ERR_KVASIR_ENGINE_DEAD', `block pool invariant violated: ${what}`);
    };
    const free = new Set(this.freeBlockIds());
    if (free.size !== this.numFreeBlocks) fail(`free queue holds ${free.size} distinct blocks, its size says ${this.numFreeBlocks}`);
    if (this.nullBlock.refCount !== 1 || free.has(0)) fail('the null block was handed out or freed');
    let used = 0;
    let published = 0;
    for (const block of this.blocks.slice(1)) {
      if (free.has(block.blockId) !== (block.refCount === 0)) fail(`block ${block.blockId} has ${block.refCount} references`);
      if (block.refCount > 0) used++;
      if (block.content === null) continue;
      published++;
      if (this.cached.get(block.content.hash)?.get(block.blockId) !== block) fail(`block ${block.blockId} is published but not found`);
    }
    if (free.size + used !== this.numUsableBlocks) fail(`${free.size} free + ${used} used is not ${this.numUsableBlocks}`);
    if (published !== this.numCachedBlocks) fail(`${published} blocks are published, the cache holds ${this.numCachedBlocks}`);
  }

  private holds(block: KVCacheBlock, key: BlockKey): boolean {
    const content = block.content;
    if (content === null || content.parentContentId !== key.parentContentId || content.extraKey !== key.extraKey) return false;
    for (let i = 0; i < this.blockSize; i++) {
      if (content.tokenIds[i] !== key.tokenIds[key.start + i]) return false;
    }
    return true;
  }

  private withdraw(block: KVCacheBlock): void {
    if (block.content === null) return;
    const bucket = this.cached.get(block.content.hash);
    bucket?.delete(block.blockId);
    if (bucket?.size === 0) this.cached.delete(block.content.hash);
    block.content = null;
  }
}
