import type { Tensor } from '../tensor/tensor';

/**
 * What attention needs to know of a step, shared by all layers. Tensors live in the worker's input buffers.
 * Tokens of all requests stand one after another (varlen); request i of the step has tokens
 * [queryStartLoc[i], queryStartLoc[i + 1]).
 */
export interface AttentionMetadata {
  readonly numTokens: number;
  readonly numSeqs: number;
  /** int64 [numTokens]: block * blockSize + offset of each token's KV; -1 writes nothing. */
  readonly slotMapping: Tensor;
  /** int32 [numSeqs + 1] */
  readonly queryStartLoc: Tensor;
  /** int32 [numSeqs]: KV length after this step. */
  readonly seqLens: Tensor;
  /** int32 [maxNumSeqs, maxBlocksPerSeq]; requests own stable rows. */
  readonly blockTable: Tensor;
  /** int32 [numSeqs]: the row of blockTable of each request of the step. */
  readonly seqRows: Tensor;
  /**
   * With several KV cache groups: the step as the layers of each group see it. Only slotMapping and blockTable differ; those above are
   * the first group's.
   */
  readonly groups?: readonly AttentionMetadata[];
}
