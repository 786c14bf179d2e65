import type { DType } from '../config/vllm';
import type { Tensor } from '../tensor/tensor';
import { call, output } from './run';

/**
 * Rows weight[ids[t] - vocabStart, :]; zeros for ids outside the shard [vocabStart, vocabStart + vocabSize).
 * @param weight [vocabSize, hiddenSize], plain or packed for linear layers
 * @param ids int32 [numTokens]
 * @param dtype weight's own, or float32 of a 16-bit weight
 * @returns [numTokens, hiddenSize]
 */
export function embedding(weight: Tensor, ids: Tensor, vocabStart = 0, dtype: DType = weight.dtype): Tensor {
  const out = output([ids.size(0), weight.size(1)], dtype);
  call('embedding', out, weight, ids, vocabStart);
  return out;
}
