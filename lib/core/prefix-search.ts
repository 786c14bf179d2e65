import { firstVisibleBlock } from '../config/kv-cache-groups';
import type { KVCacheBlock } from './free-block-queue';
import type { PrefixNode } from './prefix-tree';

/** A prefix whose KV is there. */
export interface CachedPrefix {
  /** Its length in blocks. */
  readonly numBlocks: number;
  /** The blocks of a request that begins with it, as they stand in its block table; null blocks out of sight of a window. */
  readonly blocks: readonly KVCacheBlock[];
  readonly node: PrefixNode | null;
}

export interface PrefixSearchOptions {
  /** Sliding windows by group; null: everything is seen. */
  readonly windows: readonly (number | null)[];
  readonly blockSize: number;
  readonly nullBlock: KVCacheBlock;
}

/**
 * The longest prefix, of at most `maxBlocks` blocks, with which a request can go on: every group has the blocks that the next query
 * can see. A group without a window needs all of them, one with a window the last ones before the end. Found in one pass from the
 * beginning: every length that suits the windows is noted, until a block is missing that a group without a window needs.
 * @param nodeAt the prefix that ends with block `index` of the request after `parent`, or null when it is not known
 */
export function findCachedPrefix(
  nodeAt: (index: number, parent: PrefixNode | null) => PrefixNode | null,
  maxBlocks: number,
  { windows, blockSize, nullBlock }: PrefixSearchOptions,
): CachedPrefix {
  const numGroups = windows.length;
  const blocks: KVCacheBlock[] = [];
  /** By group: the first block of the unbroken row of cached blocks that ends here. */
  const rowStarts = new Array<number>(numGroups).fill(0);
  let node: PrefixNode | null = null;
  let best: { numBlocks: number; node: PrefixNode | null } = { numBlocks: 0, node: null };
  for (let index = 0; index < maxBlocks; index++) {
    node = nodeAt(index, node);
    if (node === null || !takeBlocks(node, index)) break;
    const length = index + 1;
    if (windows.every((window, group) => rowStarts[group]! <= firstVisibleBlock(window, length * blockSize, blockSize))) best = { numBlocks: length, node };
  }
  blocks.length = best.numBlocks * numGroups;
  windows.forEach(hideOutOfSight);
  return { ...best, blocks };

  /** Appends the blocks of all groups; false when one is missing without which no group without a window goes on. */
  function takeBlocks(at: PrefixNode, index: number): boolean {
    for (let group = 0; group < numGroups; group++) {
      const block = at.block(group);
      if (block === null) {
        if (windows[group] === null) return false;
        rowStarts[group] = index + 1;
      }
      blocks.push(block ?? nullBlock);
    }
    return true;
  }

  function hideOutOfSight(window: number | null, group: number): void {
    const first = firstVisibleBlock(window, best.numBlocks * blockSize, blockSize);
    for (let index = 0; index < first; index++) blocks[index * numGroups + group] = nullBlock;
  }
}
