import type { Tensor } from '../tensor/tensor';
import { reshape } from '../tensor/views';
import { packLinear } from './gemm';
import { call, output } from './run';

/** What {@link moeRouting} chose: weights float32 and experts int32, both [numTokens, topK]. */
export interface Routing {
  readonly weights: Tensor;
  readonly experts: Tensor;
}

/**
 * The topK largest logits of each token, largest first (the lower index among equals), with their softmax over all experts.
 * @param logits [numTokens, numExperts], rows may be strided
 * @param renormalize divide the weights of a token by their sum (Mixtral; Qwen3-MoE by norm_topk_prob)
 */
export function moeRouting(logits: Tensor, topK: number, renormalize: boolean): Routing {
  const weights = output([logits.size(0), topK], 'float32');
  const experts = output([logits.size(0), topK], 'int32');
  call('moeRouting', weights, experts, logits, renormalize);
  return { weights, experts };
}

/**
 * Shape of the table of {@link moeAlign}. A block holds as many pairs as an expert gets on average, of the heights that the GPU's kernels
 * have; there are as many blocks as the worst spread over experts needs. More pairs never need less memory.
 */
export function moeBlocksShape(numPairs: number, numExperts: number): readonly [numBlocks: number, width: number] {
  const average = numPairs / numExperts;
  const rows = average <= 16 ? 16 : average <= 64 ? 64 : 128;
  return [Math.floor((numPairs + Math.min(numExperts, numPairs) * (rows - 1)) / rows), 1 + rows];
}

/**
 * Sorts the pairs (token, choice) by expert for {@link moeLinear}.
 * @param experts int32 [numTokens, topK]; choices outside [0, numExperts) are left out
 * @returns int32 [numBlocks, 1 + blockRows]: an expert and pairs t * topK + j of it, -1 where there is none
 */
export function moeAlign(experts: Tensor, numExperts: number): Tensor {
  const blocks = output(moeBlocksShape(experts.numel, numExperts), 'int32');
  call('moeAlign', blocks, experts, numExperts);
  return blocks;
}

/**
 * Each pair's row of x times the weight of its expert: out[p] = x[row of p] @ weights[expert of p]^T.
 * @param x [numTokens, inFeatures], read by every choice of a token, or [numPairs, inFeatures]
 * @param weights [numExperts, outFeatures, inFeatures], perhaps with more (padding) rows per expert; plain or of {@link packExperts}
 * @param blocks of {@link moeAlign}
 * @returns [numPairs, outFeatures]; rows of pairs that are in no block are not written
 */
export function moeLinear(x: Tensor, weights: Tensor, blocks: Tensor, numPairs: number, outFeatures = weights.size(1)): Tensor {
  const out = output([numPairs, outFeatures], x.dtype);
  call('moeLinear', out, x, weights, blocks);
  return out;
}

/**
 * out[t] = sum of weights[t, j] * x[t * topK + j] in the order of j, in float32.
 * @param x [numTokens * topK, hiddenSize]
 * @returns [numTokens, hiddenSize]
 */
export function moeCombine(x: Tensor, { weights, experts }: Routing, numExperts: number): Tensor {
  const out = output([weights.size(0), x.size(1)], x.dtype);
  call('moeCombine', out, x, weights, experts, numExperts);
  return out;
}

/**
 * Rearranges the weights of experts in place for {@link moeLinear} and marks them as packed (see packLinear).
 * @param weights [numExperts, outFeatures, inFeatures], contiguous; outFeatures a multiple of PACK_ROWS
 */
export function packExperts(weights: Tensor): void {
  packLinear(reshape(weights, [weights.size(0) * weights.size(1), weights.size(2)]));
  weights.markPacked();
}
