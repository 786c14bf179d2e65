import type { LoadedWeight } from '../nn/parameter';
import { deinterleaved } from '../nn/weight-views';
import { numElements } from '../tensor/tensor';

/** Tensors of GPTQ and AWQ whose outputs are the second dimension; those of other formats have them first. */
const OUTPUTS_SECOND = new Set(['qweight', 'qzeros', 'scales']);
/** Tensors that say something of the inputs, or of all outputs together. */
const WITHOUT_OUTPUTS = new Set(['g_idx', 'weight_shape']);

/**
 * Checkpoints of GPT-NeoX and BLOOM hold q, k and v of each head side by side: `query_key_value` is [heads, 3, headDim, ..]. Gives those
 * tensors as [3, heads, headDim, ..], the order of QKVParallelLinear, and all others as they are.
 * @param numHeads heads of the whole model
 */
export function* deinterleaveQkv(weights: Iterable<LoadedWeight>, numHeads: number): Generator<LoadedWeight> {
  for (const weight of weights) {
    const tensor = /\bquery_key_value\.(\w+)$/.exec(weight.name)?.[1];
    const asIs = tensor === undefined || WITHOUT_OUTPUTS.has(tensor) || numElements(weight.shape) === 1;
    yield asIs ? weight : deinterleaved(weight, { dim: OUTPUTS_SECOND.has(tensor) ? 1 : 0, groups: numHeads, parts: 3 });
  }
}
