import type { Tensor } from '../tensor/tensor';
import { call } from './run';

/**
 * Rotary position embedding, in place: rotates the first rotaryDim elements of every head of q and k.
 * @param positions int32 or int64 [numTokens]
 * @param q [numTokens, numHeads, headDim]; tokens may lie apart (a view of a merged projection)
 * @param k [numTokens, numKvHeads, headDim] or null
 * @param cosSin float32 [maxPosition, rotaryDim] of {@link computeRopeTable} (lib/nn/rope-table.ts)
 * @param isNeox rotate halves (Llama, Qwen, NeoX) instead of neighbouring pairs (GPT-J)
 * @throws at the next synchronize, ERR_KVASIR_TENSOR, when a position lies outside the table
 */
export function rope(positions: Tensor, q: Tensor, k: Tensor | null, cosSin: Tensor, isNeox: boolean): void {
  call('rope', positions, q, k, cosSin, isNeox);
}

/** RMSNorm of heads, see {@link normRope}. */
export interface HeadNorms {
  /** [headDim] */
  readonly qWeight: Tensor;
  /** [headDim] */
  readonly kWeight: Tensor;
  readonly eps: number;
  /** Multiply by (1 + weight) and round once, as Gemma does. */
  readonly gemma: boolean;
}

/**
 * Normalises every head of q and k by itself, as rmsNorm does rows of headDim elements, then rotates as {@link rope} does; in place.
 * @param q [numTokens, numHeads, headDim]; tokens may lie apart
 * @param k [numTokens, numKvHeads, headDim]
 * @throws as {@link rope}
 */
export function normRope(positions: Tensor, q: Tensor, k: Tensor, norms: HeadNorms, cosSin: Tensor, isNeox: boolean): void {
  call('normRope', positions, q, k, norms.qWeight, norms.kWeight, cosSin, norms.eps, norms.gemma, isNeox);
}
