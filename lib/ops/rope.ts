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
