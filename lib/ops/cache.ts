import type { Tensor } from '../tensor/tensor';
import { call } from './run';

/**
 * Stores keys and values of a step in the paged cache.
 * @param kvCache [numBlocks, 2, numKvHeads, blockSize, headDim]
 * @param k, v [numTokens, numKvHeads, headDim]; tokens may lie apart
 * @param slotMapping int64 [numTokens]: block * blockSize + offset, negative: not stored
 */
export function kvCacheWrite(kvCache: Tensor, k: Tensor, v: Tensor, slotMapping: Tensor): void {
  call('kvCacheWrite', kvCache, k, v, slotMapping);
}
