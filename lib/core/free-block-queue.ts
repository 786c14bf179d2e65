import { KvasirError } from '../utils/errors';
import type { PrefixNode } from './prefix-tree';

/** One block of the KV pool (vllm.v1.core.kv_cache_utils.KVCacheBlock). */
export class KVCacheBlock {
  readonly blockId: number;
  /** Requests whose block table holds this block. */
  refCount = 0;
  /** What it holds, while it can be found in the prefix cache. */
  node: PrefixNode | null = null;
  /** KV cache group whose layers wrote it last. */
  group = 0;
  /** Neighbours among the published blocks of its group with the same contents; owned by {@link PrefixNode}. */
  prevSame: KVCacheBlock | null = null;
  nextSame: KVCacheBlock | null = null;
  /** Neighbours in the free queue; owned by {@link FreeBlockQueue}. */
  prevFree: KVCacheBlock | null = null;
  nextFree: KVCacheBlock | null = null;
  isFree = false;

  constructor(blockId: number) {
    this.blockId = blockId;
  }
}

/**
 * Doubly linked list of free blocks in eviction order, front first (vllm.v1.core.kv_cache_utils.FreeKVCacheBlockQueue).
 * Links live in the blocks: every operation is O(1) and allocates nothing.
 */
export class FreeBlockQueue {
  private readonly head = new KVCacheBlock(-1);
  private readonly tail = new KVCacheBlock(-1);
  private count = 0;

  constructor(blocks: Iterable<KVCacheBlock>) {
    this.head.nextFree = this.tail;
    this.tail.prevFree = this.head;
    for (const block of blocks) this.append(block);
  }

  get size(): number {
    return this.count;
  }

  /** Takes the block that is to be reused next. */
  popFront(): KVCacheBlock {
    const block = this.head.nextFree!;
    if (block === this.tail) throw new KvasirError('ERR_KVASIR_ENGINE_DEAD', 'expected a free KV block, but the pool has none');
    this.remove(block);
    return block;
  }

  /** Takes a block out of the middle (a cache hit on a free block). */
  remove(block: KVCacheBlock): void {
    if (!block.isFree) {
      throw new KvasirError('ERR_KVASIR_ENGINE_DEAD', `expected KV block ${block.blockId} to be in the free queue, but it is in use`);
    }
    block.prevFree!.nextFree = block.nextFree;
    block.nextFree!.prevFree = block.prevFree;
    block.prevFree = null;
    block.nextFree = null;
    block.isFree = false;
    this.count--;
  }

  /** Reused last. */
  append(block: KVCacheBlock): void {
    this.insertBefore(this.tail, block);
  }

  /** Reused first. */
  prepend(block: KVCacheBlock): void {
    this.insertBefore(this.head.nextFree!, block);
  }

  /** Front to back; for tests and checks. */
  *[Symbol.iterator](): Generator<KVCacheBlock> {
    for (let block = this.head.nextFree!; block !== this.tail; block = block.nextFree!) yield block;
  }

  private insertBefore(next: KVCacheBlock, block: KVCacheBlock): void {
    if (block.isFree) {
      throw new KvasirError('ERR_KVASIR_ENGINE_DEAD', `expected KV block ${block.blockId} to be in use, but it is already in the free queue`);
    }
    const prev = next.prevFree!;
    prev.nextFree = block;
    block.prevFree = prev;
    block.nextFree = next;
    next.prevFree = block;
    block.isFree = true;
    this.count++;
  }
}
