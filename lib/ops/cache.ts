import type { Tensor } from '../tensor/tensor';
import { call } from './run';

/** A float8_e4m3 cache holds keys divided by kScale and values divided by vScale. */
export interface KvScales {
  readonly kScale: number;
  readonly vScale: number;
}

/** Of a cache that holds keys and values as they are. */
export const NO_SCALES: KvScales = { kScale: 1, vScale: 1 };

/**
 * Stores keys and values of a step in the paged cache.
 * @param kvCache [numBlocks, 2, numKvHeads, blockSize, headDim]
 * @param k, v [numTokens, numKvHeads, headDim]; tokens may lie apart
 * @param slotMapping int64 [numTokens]: block * blockSize + offset, negative: not stored
 * @param scales what keys and values are divided by; 1 unless the cache is float8_e4m3
 */
export function kvCacheWrite(kvCache: Tensor, k: Tensor, v: Tensor, slotMapping: Tensor, scales: KvScales = NO_SCALES): void {
  call('kvCacheWrite', kvCache, k, v, slotMapping, scales.kScale, scales.vScale);
}
