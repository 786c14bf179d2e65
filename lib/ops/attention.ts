import type { Tensor } from '../tensor/tensor';
import { NO_SCALES, type KvScales } from './cache';
import { call, output } from './run';

/** Which keys belong to which queries; shapes as in AttentionMetadata. */
export interface PagedSequences {
  readonly blockTable: Tensor;
  readonly seqRows: Tensor;
  readonly seqLens: Tensor;
  readonly queryStartLoc: Tensor;
}

export interface PagedAttentionOptions {
  readonly scale: number;
  /** Keys that a query sees, itself included; 0: all. */
  readonly slidingWindow: number;
  /** 0: none. */
  readonly logitsSoftCap: number;
  /** float32 [numHeads] */
  readonly alibiSlopes: Tensor | null;
  /** float32 [numHeads] */
  readonly sinks: Tensor | null;
  /** Default 1 and 1. */
  readonly scales?: KvScales;
}

/**
 * Causal attention of a step's queries over the paged cache (native/ops/attention.h).
 * @param q [numTokens, numHeads, headDim]; tokens may lie apart
 * @param kvCache [numBlocks, 2, numKvHeads, blockSize, headDim]
 * @returns [numTokens, numHeads, headDim]
 */
export function pagedAttention(q: Tensor, kvCache: Tensor, sequences: PagedSequences, options: PagedAttentionOptions): Tensor {
  const out = output(q.shape, q.dtype);
  const { blockTable, seqRows, seqLens, queryStartLoc } = sequences;
  const { scale, slidingWindow, logitsSoftCap, alibiSlopes, sinks, scales = NO_SCALES } = options;
  const { kScale, vScale } = scales;
  call('pagedAttention', out, q, kvCache, blockTable, seqRows, seqLens, queryStartLoc, scale, slidingWindow, logitsSoftCap, alibiSlopes, sinks, kScale, vScale);
  return out;
}
