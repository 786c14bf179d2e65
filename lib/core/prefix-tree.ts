import type { BlockHash } from './block-hash';
import type { KVCacheBlock } from './free-block-queue';

/** The contents of a block that is looked for: `blockSize` tokens of `tokenIds` from `start`, after the prefix `parent`. */
export interface PrefixKey {
  readonly hash: BlockHash;
  readonly parent: PrefixNode | null;
  readonly tokenIds: readonly number[];
  readonly start: number;
  readonly extraKey: string | null;
}

/**
 * A prefix that ends with a whole block. Two block contents have the same node only when their tokens, extra keys and all blocks
 * before them were compared and found equal, so that a node stands for everything up to its end.
 */
export class PrefixNode {
  /** By KV cache group: the first published block with these contents, at the head of a ring of all, in the order of publishing. */
  private readonly heads: (KVCacheBlock | null)[];
  /** Prefixes one block longer, published blocks, and requests that hold on to this prefix. */
  uses = 0;
  /** Next node with the same hash. */
  next: PrefixNode | null = null;

  constructor(
    readonly hash: BlockHash,
    readonly parent: PrefixNode | null,
    readonly tokenIds: readonly number[],
    readonly extraKey: string | null,
    numGroups: number,
  ) {
    this.heads = numGroups === 1 ? [null] : new Array<KVCacheBlock | null>(numGroups).fill(null);
  }

  /** A published block of a group, or null. */
  block(group: number): KVCacheBlock | null {
    return this.heads[group]!;
  }

  add(block: KVCacheBlock): void {
    const head = this.heads[block.group] ?? null;
    if (head === null) {
      this.heads[block.group] = block.nextSame = block.prevSame = block;
      return;
    }
    const last = head.prevSame!;
    block.prevSame = last;
    block.nextSame = head;
    last.nextSame = head.prevSame = block;
  }

  remove(block: KVCacheBlock): void {
    const { prevSame, nextSame, group } = block;
    if (nextSame === block) this.heads[group] = null;
    else {
      prevSame!.nextSame = nextSame;
      nextSame!.prevSame = prevSame;
      if (this.heads[group] === block) this.heads[group] = nextSame;
    }
    block.prevSame = block.nextSame = null;
  }

  /** All published blocks. */
  *blocks(): Generator<KVCacheBlock> {
    for (const head of this.heads) {
      let block = head;
      while (block !== null) {
        const next: KVCacheBlock | null = block.nextSame === head ? null : block.nextSame;
        yield block;
        block = next;
      }
    }
  }
}

/**
 * The prefixes of which blocks are published, as a tree of blocks with an index by hash. A node lives as long as a block, a longer
 * prefix or a request needs it. So the end of a sequence can be found when the blocks at its beginning are gone, which is all
 * that layers with a sliding window want, and still every block up to it has been compared.
 */
export class PrefixTree {
  private readonly heads = new Map<BlockHash, PrefixNode>();

  constructor(
    private readonly blockSize: number,
    private readonly numGroups: number,
  ) {}

  /** The node with exactly these contents, or null. Equal hashes are not trusted: tokens, extra key and parent are compared. */
  find(key: PrefixKey): PrefixNode | null {
    let node = this.heads.get(key.hash) ?? null;
    while (node !== null && !this.holds(node, key)) node = node.next;
    return node;
  }

  findOrAdd(key: PrefixKey): PrefixNode {
    const found = this.find(key);
    if (found !== null) return found;
    const tokenIds = key.tokenIds.slice(key.start, key.start + this.blockSize);
    const node = new PrefixNode(key.hash, key.parent, tokenIds, key.extraKey, this.numGroups);
    this.retain(key.parent);
    node.next = this.heads.get(key.hash) ?? null;
    this.heads.set(key.hash, node);
    return node;
  }

  retain(node: PrefixNode | null): void {
    if (node !== null) node.uses++;
  }

  /** Takes back one {@link retain}; nodes that nothing needs any more are dropped, from the end of the prefix on. */
  release(node: PrefixNode | null): void {
    for (let last = node; last !== null && --last.uses === 0; last = last.parent) this.unlink(last);
  }

  /** Makes a prefix and all longer ones impossible to find, while those who hold on to them may go on. */
  unlink(node: PrefixNode): void {
    const head = this.heads.get(node.hash);
    if (head === node) {
      if (node.next === null) this.heads.delete(node.hash);
      else this.heads.set(node.hash, node.next);
      return;
    }
    for (let before = head; before !== undefined; before = before.next ?? undefined) {
      if (before.next !== node) continue;
      before.next = node.next;
      return;
    }
  }

  clear(): void {
    this.heads.clear();
  }

  /** For tests and checks. */
  *[Symbol.iterator](): Generator<PrefixNode> {
    for (const head of this.heads.values()) for (let node: PrefixNode | null = head; node !== null; node = node.next) yield node;
  }

  private holds(node: PrefixNode, key: PrefixKey): boolean {
    if (node.parent !== key.parent || node.extraKey !== key.extraKey) return false;
    for (let i = 0; i < this.blockSize; i++) {
      if (node.tokenIds[i] !== key.tokenIds[key.start + i]) return false;
    }
    return true;
  }
}
