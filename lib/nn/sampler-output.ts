import type { Tensor } from '../tensor/tensor';

/** What a forward pass returns that ends with a sampler: hidden states, and how logits come of them. */
export class SamplerOutput {
  constructor(
    /** [numTokens, hiddenSize] */
    readonly hiddenStates: Tensor,
    /** [numRows, hiddenSize] -> float32 [numRows, vocabSize] */
    readonly computeLogits: (hiddenStates: Tensor) => Tensor,
  ) {}
}
