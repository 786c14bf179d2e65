/** Layers whose KV lies in the same blocks: they have the same heads and see the same keys. */
export interface KVCacheGroupSpec {
  /** Keys that a query sees, itself included; null: all before it. */
  readonly slidingWindow: number | null;
  readonly numLayers: number;
}

/** First block that a query at position `numComputedTokens`, or any after it, can see in a group. */
export function firstVisibleBlock(slidingWindow: number | null, numComputedTokens: number, blockSize: number): number {
  if (slidingWindow === null) return 0;
  return Math.floor(Math.max(0, numComputedTokens - slidingWindow + 1) / blockSize);
}

/**
 * Most blocks that a request holds in a group while it grows to `numTokens`, at most `maxStepTokens` of them in one step: what the
 * first query of the step can see, and what the step writes.
 */
export function maxBlocksHeld(slidingWindow: number | null, numTokens: number, maxStepTokens: number, blockSize: number): number {
  const all = Math.ceil(numTokens / blockSize);
  if (slidingWindow === null) return all;
  // n tokens in a row lie in at most ceil((n - 1) / blockSize) + 1 blocks.
  const inSight = slidingWindow - 1 + Math.min(maxStepTokens, numTokens);
  return Math.min(all, Math.ceil((inSight - 1) / blockSize) + 1);
}
