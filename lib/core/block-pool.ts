import { KvasirError } from '../utils/errors';
import { FreeBlockQueue, KVCacheBlock } from './free-block-queue';
import { PrefixTree } from './prefix-tree';
import type { PrefixNode } from './prefix-tree';

/**
 * All KV blocks, their reference counts, the free queue and the prefix cache (vllm.v1.core.block_pool.BlockPool).
 *
 * A free block stays in the prefix cache until it is handed out again, so the order of the free queue is the eviction
 * order: least recently used first. Block 0 is the null block: a placeholder that is never handed out. A block serves one KV
 * cache group at a time.
 */
export class BlockPool {
  readonly numBlocks: number;
  readonly blockSize: number;
  readonly nullBlock: KVCacheBlock;
  /** What the published blocks hold. */
  readonly prefixes: PrefixTree;
  private readonly blocks: readonly KVCacheBlock[];
  private readonly freeQueue: FreeBlockQueue;
  /** Blocks in use and the most that ever were, by group. */
  private readonly held: number[];
  private readonly peak: number[];

  /** @param numBlocks blocks in the pool, the null block included; at least 2 */
  constructor(numBlocks: number, blockSize: number, readonly numGroups = 1) {
    if (!Number.isInteger(numBlocks) || numBlocks < 2) {
      throw new KvasirError('ERR_KVASIR_CONFIG', `numBlocks: expected an integer of at least 2 (block 0 is reserved), received ${numBlocks}`);
    }
    if (!Number.isInteger(blockSize) || blockSize < 1) {
      throw new KvasirError('ERR_KVASIR_CONFIG', `blockSize: expected a positive integer, received ${blockSize}`);
    }
    this.numBlocks = numBlocks;
    this.blockSize = blockSize;
    this.prefixes = new PrefixTree(blockSize, numGroups);
    this.held = new Array<number>(numGroups).fill(0);
    this.peak = this.held.slice();
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

  /** Blocks in use by group. */
  get blocksHeld(): readonly number[] {
    return this.held;
  }

  /** Most blocks that were in use at once, by group. */
  get peakBlocksHeld(): readonly number[] {
    return this.peak;
  }

  /** Publishes a full block of a request, so that later requests find it. A block already published is an error. */
  cacheFullBlock(block: KVCacheBlock, node: PrefixNode): void {
    if (block.node !== null || block === this.nullBlock) {
      throw new KvasirError('ERR_KVASIR_ENGINE_DEAD', `expected KV block ${block.blockId} not to be in the prefix cache yet`);
    }
    block.node = node;
    node.add(block);
    this.prefixes.retain(node);
  }

  /**
   * Takes `count` blocks from the front of the free queue with reference count 1, for the groups in turn; what they held leaves
   * the prefix cache. The caller has checked {@link numFreeBlocks}.
   */
  getNewBlocks(count: number): KVCacheBlock[] {
    if (count > this.numFreeBlocks) {
      throw new KvasirError('ERR_KVASIR_ENGINE_DEAD', `expected at most ${this.numFreeBlocks} KV blocks to be asked for, received ${count}`);
    }
    const taken: KVCacheBlock[] = [];
    for (let i = 0; i < count; i++) {
      const block = this.freeQueue.popFront();
      this.withdraw(block);
      block.group = i % this.numGroups;
      block.refCount = 1;
      this.countHeld(block.group);
      taken.push(block);
    }
    return taken;
  }

  /** Adds a reference to blocks found in the prefix cache; free ones leave the free queue and so cannot be evicted. */
  touch(blocks: readonly KVCacheBlock[]): void {
    for (const block of blocks) {
      if (block === this.nullBlock) continue;
      if (block.refCount === 0) {
        this.freeQueue.remove(block);
        this.countHeld(block.group);
      }
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
    for (const block of ordered) this.freeBlock(block);
  }

  /** {@link freeBlocks} of one block. */
  freeBlock(block: KVCacheBlock): void {
    if (block === this.nullBlock) return;
    if (block.refCount === 0) {
      throw new KvasirError('ERR_KVASIR_ENGINE_DEAD', `expected KV block ${block.blockId} to be in use when freed, but it is free already`);
    }
    block.refCount--;
    if (block.refCount > 0) return;
    this.held[block.group]!--;
    if (block.node === null) this.freeQueue.prepend(block);
    else this.freeQueue.append(block);
  }

  /** Takes blocks out of the prefix cache without freeing them: nobody can hit them any more. */
  withdrawBlocks(blocks: Iterable<KVCacheBlock>): void {
    for (const block of blocks) this.withdraw(block);
  }

  /** Makes a prefix and whatever goes on from it impossible to hit: its first block is taken out of the prefix cache. */
  withdrawPrefix(node: PrefixNode): void {
    let first = node;
    while (first.parent !== null) first = first.parent;
    // Those who hold on to it may publish more, but find() reaches nothing without its first node, and a new one has no children.
    this.prefixes.unlink(first);
    this.withdrawBlocks([...first.blocks()]);
  }

  /** Empties the prefix cache. Only while no request holds a block; returns whether it was done. */
  resetPrefixCache(): boolean {
    if (this.numFreeBlocks !== this.numUsableBlocks) return false;
    for (const block of this.blocks) block.node = block.prevSame = block.nextSame = null;
    this.prefixes.clear();
    return true;
  }

  /** Block ids in the order in which they will be reused. O(free blocks): for tests. */
  freeBlockIds(): number[] {
    return Array.from(this.freeQueue, (block) => block.blockId);
  }

  /** Published blocks. O(prefixes): for tests. */
  get numCachedBlocks(): number {
    let count = 0;
    for (const node of this.prefixes) count += [...node.blocks()].length;
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
    const held = new Array<number>(this.numGroups).fill(0);
    let published = 0;
    for (const block of this.blocks.slice(1)) {
      if (free.has(block.blockId) !== (block.refCount === 0)) fail(`block ${block.blockId} has ${block.refCount} references`);
      if (block.refCount > 0) held[block.group]!++;
      if (block.node === null) continue;
      published++;
      if (![...block.node.blocks()].includes(block)) fail(`block ${block.blockId} is published but not found`);
    }
    const used = held.reduce((sum, count) => sum + count, 0);
    if (free.size + used !== this.numUsableBlocks) fail(`${free.size} free + ${used} used is not ${this.numUsableBlocks}`);
    if (held.some((count, group) => count !== this.held[group])) fail(`${held} blocks are in use, counted were ${this.held}`);
    for (const node of this.prefixes) if (node.uses <= 0) fail('a prefix is kept that nothing needs');
    if (published !== this.numCachedBlocks) fail(`${published} blocks are published, the cache holds ${this.numCachedBlocks}`);
  }

  private withdraw(block: KVCacheBlock): void {
    const { node } = block;
    if (node === null) return;
    block.node = null;
    node.remove(block);
    this.prefixes.release(node);
  }

  private countHeld(group: number): void {
    const count = ++this.held[group]!;
    if (count > this.peak[group]!) this.peak[group] = count;
  }
}
