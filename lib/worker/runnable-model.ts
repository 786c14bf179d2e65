import { getForwardContext } from '../attention/forward-context';
import type { VllmConfig } from '../config/vllm';
import type { Attention } from '../layers/attention';
import { checkModelMembers, modelName, type Forward, type ForwardWithKvCaches, type ModelClass, type TextGenerationModel } from '../models/interfaces';
import { SamplerOutput } from '../nn/sampler-output';
import type { Tensor } from '../tensor/tensor';
import { KvasirError } from '../utils/errors';

/** A model as the worker calls it, whatever era its forward is written for. */
export interface RunnableModel {
  forward(inputIds: Tensor, positions: Tensor): Tensor;
  computeLogits(hiddenStates: Tensor): Tensor;
  /** Whether {@link computeTopTokens} agrees with {@link computeLogits}; known after the first forward. */
  hasTopTokens(): boolean;
  computeTopTokens(hiddenStates: Tensor, k: number): Tensor;
}

/** The third parameter of a forward for kv caches, as its author (and vLLM's guide) names it. */
const KV_CACHES = /^_?kv_?caches?$/i;

/**
 * Adapts a model's forward to the worker.
 * @throws KvasirError ERR_KVASIR_REGISTRY for a class without the members that a model needs
 */
export function runnableModel(model: TextGenerationModel, vllmConfig: VllmConfig): RunnableModel {
  checkModelMembers(model);
  let output: SamplerOutput | null = null;
  const forward = forwardOf(model, vllmConfig);
  return {
    forward(inputIds, positions) {
      const result = forward(inputIds, positions);
      output = result instanceof SamplerOutput ? result : null;
      return result instanceof SamplerOutput ? result.hiddenStates : result;
    },
    computeLogits(hiddenStates) {
      if (output) return output.computeLogits(hiddenStates);
      if (model.computeLogits) return model.computeLogits(hiddenStates);
      throw new KvasirError('ERR_KVASIR_REGISTRY', `model ${modelName(model)}: expected a method computeLogits, or a forward that returns the output of a Sampler; received neither`);
    },
    hasTopTokens: () => output === null && saysTopTokens(model),
    computeTopTokens: (hiddenStates, k) => model.computeTopTokens!(hiddenStates, k),
  };
}

/** A class that says anew how logits are computed, and not what the largest are, does not mean what it inherits. */
function saysTopTokens(model: TextGenerationModel): boolean {
  for (let owner: object | null = model; owner !== null; owner = Object.getPrototypeOf(owner) as object | null) {
    if (Object.hasOwn(owner, 'computeTopTokens')) return true;
    if (Object.hasOwn(owner, 'computeLogits')) return false;
  }
  return false;
}

function forwardOf(model: TextGenerationModel, { staticForwardContext }: VllmConfig): (inputIds: Tensor, positions: Tensor) => Tensor | SamplerOutput {
  if (!takesKvCaches(model)) return (inputIds, positions) => (model.forward as Forward)(inputIds, positions);
  const layers = Array.from(staticForwardContext.values()) as Attention[];
  const kvCaches = layers.map((layer) => layer.kvCache);
  return (inputIds, positions) => (model.forward as ForwardWithKvCaches)(inputIds, positions, kvCaches, getForwardContext().attention);
}

/** Whether forward is written for `(inputIds, positions, kvCaches, attnMetadata)`: said by the class, or by its parameter's name. */
export function takesKvCaches(model: TextGenerationModel): boolean {
  if ((model.constructor as ModelClass).forwardStyle === 'kvCaches') return true;
  const source = Function.prototype.toString.call(model.forward);
  const parameters = source.slice(source.indexOf('(') + 1, source.indexOf(')')).split(',');
  return KV_CACHES.test(parameters[2]?.trim().split(/[\s=:]/)[0] ?? '');
}
