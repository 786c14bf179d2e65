import type { VllmConfig } from '../config/vllm';
import type { Module } from '../nn/module';
import type { LoadedWeight } from '../nn/parameter';
import type { Tensor } from '../tensor/tensor';

/**
 * What the worker needs of a model for text generation (vllm VllmModelForTextGeneration). Any class with these members
 * counts; nothing has to be inherited. All tensors are flat: one token dimension for all requests of a step.
 */
export interface TextGenerationModel extends Module {
  /** inputIds int32 [numTokens] -> [numTokens, hiddenSize] */
  embedInputIds(inputIds: Tensor): Tensor;
  /** inputIds, positions: int32 [numTokens]; returns hidden states [numTokens, hiddenSize]. */
  forward(inputIds: Tensor, positions: Tensor): Tensor;
  /** Hidden states of the rows that are wanted [numRows, hiddenSize] -> float32 [numRows, vocabSize]. */
  computeLogits(hiddenStates: Tensor): Tensor;
  /** Gives every checkpoint tensor to the layer that it belongs to. */
  loadWeights(weights: Iterable<LoadedWeight>): void;
}

export type ModelClass = new (vllmConfig: VllmConfig, prefix: string) => TextGenerationModel;
