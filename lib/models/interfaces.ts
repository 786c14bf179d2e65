import type { AttentionMetadata } from '../attention/metadata';
import type { VllmConfig } from '../config/vllm';
import type { IntermediateTensors } from '../nn/intermediate-tensors';
import { Module } from '../nn/module';
import type { LoadedWeight } from '../nn/parameter';
import type { SamplerOutput } from '../nn/sampler-output';
import type { Tensor } from '../tensor/tensor';
import { KvasirError } from '../utils/errors';

/** forward of today's models (vLLM V1); the two optional arguments serve pipelines and composite models. */
export type Forward = (inputIds: Tensor, positions: Tensor, intermediateTensors?: IntermediateTensors | null, inputsEmbeds?: Tensor | null) => Tensor;

/**
 * forward of models written for vLLM 0.1 to 0.8: the caches of all attention layers and the metadata of the step are passed on from
 * hand to hand. With a {@link Sampler} in the model it returns that layer's output, else hidden states.
 */
export type ForwardWithKvCaches = (
  inputIds: Tensor,
  positions: Tensor,
  kvCaches: readonly Tensor[],
  attnMetadata: AttentionMetadata,
  intermediateTensors?: IntermediateTensors | null,
) => Tensor | SamplerOutput;

/**
 * A model for text generation (vllm VllmModelForTextGeneration). Any class with these members counts; nothing but {@link Module} has to
 * be inherited, and `CausalLM` brings what most models share. All tensors are flat: one token dimension for all requests of a step.
 */
export interface TextGenerationModel extends Module {
  /** inputIds, positions: int32 [numTokens]; returns hidden states [numTokens, hiddenSize]. */
  forward: Forward | ForwardWithKvCaches;
  /** inputIds int32 [numTokens] -> [numTokens, hiddenSize] */
  embedInputIds?(inputIds: Tensor): Tensor;
  /** The older name of embedInputIds. */
  getInputEmbeddings?(inputIds: Tensor): Tensor;
  /** Hidden states of the rows that are wanted [numRows, hiddenSize] -> float32 [numRows, vocabSize]. A model with a Sampler has none. */
  computeLogits?(hiddenStates: Tensor): Tensor;
  /**
   * Of several ranks, the k largest logits of each instead of all: what steps need whose requests are greedy or have a small top-k. Used
   * when it belongs to the class that says how logits are computed, or to one derived from it.
   * @returns what LogitsProcessor.topTokens does
   */
  computeTopTokens?(hiddenStates: Tensor, k: number): Tensor;
  /** Gives every checkpoint tensor to the layer that it belongs to; without it, to the parameter that claims its name. */
  loadWeights?(weights: Iterable<LoadedWeight>): unknown;
}

export type ModelClass = (new (vllmConfig: VllmConfig, prefix: string) => TextGenerationModel) & {
  /** Says which forward it has, where the name of its third parameter does not (minified code). */
  readonly forwardStyle?: 'kvCaches';
};

/**
 * That an object has what every model needs; the rest is asked for where it is used.
 * @throws KvasirError ERR_KVASIR_REGISTRY
 */
export function checkModelMembers(model: object): void {
  const missing: string[] = [];
  if (typeof (model as Partial<TextGenerationModel>).forward !== 'function') missing.push('forward');
  if (typeof (model as Partial<TextGenerationModel>).modules !== 'function') missing.push('the members of Module');
  if (missing.length)
    throw new KvasirError('ERR_KVASIR_REGISTRY', `model ${modelName(model)} lacks ${missing.join(' and ')}: expected a Module with forward(inputIds, positions)`);
  if (!(model instanceof Module))
    throw new KvasirError('ERR_KVASIR_REGISTRY', `model ${modelName(model)} is made of modules of another copy of the package; expected those of the copy that runs it (npm ls kvasir shows them)`);
}

/** The class name of a model, for messages. */
export function modelName(model: object): string {
  return model.constructor.name || 'without a name';
}

/**
 * Embeddings of token ids [numTokens] -> [numTokens, hiddenSize] of a model written with either name of that method: what a composite
 * model asks of the model inside it.
 * @throws KvasirError ERR_KVASIR_REGISTRY when it has neither
 */
export function embedInputIds(model: Pick<TextGenerationModel, 'embedInputIds' | 'getInputEmbeddings'>, inputIds: Tensor): Tensor {
  if (model.embedInputIds) return model.embedInputIds(inputIds);
  if (model.getInputEmbeddings) return model.getInputEmbeddings(inputIds);
  throw new KvasirError('ERR_KVASIR_REGISTRY', `model ${modelName(model)}: expected a method embedInputIds (or getInputEmbeddings, its older name), received neither`);
}
