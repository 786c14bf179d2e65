import type { VllmConfig } from '../config/vllm';
import { loadWeights, type LoadWeightsOptions } from '../nn/load-weights';
import { maybePrefix, Module } from '../nn/module';
import type { LoadedWeight } from '../nn/parameter';
import type { Tensor } from '../tensor/tensor';
import type { Forward } from './interfaces';

/** What text models have in common beyond their layers: embedding by id and loading, which a model overrides where it differs. */
export abstract class CausalLM extends Module {
  constructor(
    protected readonly vllmConfig: VllmConfig,
    prefix: string,
  ) {
    super(prefix);
  }

  abstract forward(...args: Parameters<Forward>): Tensor;

  abstract computeLogits(hiddenStates: Tensor): Tensor;

  abstract embedInputIds(inputIds: Tensor): Tensor;

  /** The older name of embedInputIds. */
  getInputEmbeddings(inputIds: Tensor): Tensor {
    return this.embedInputIds(inputIds);
  }

  loadWeights(weights: Iterable<LoadedWeight>): Set<string> {
    return loadWeights(this, weights, this.loadOptions());
  }

  /** How names of the checkpoint become names of the model. Some checkpoints with tied embeddings store the copy too: it is dropped. */
  protected loadOptions(): LoadWeightsOptions {
    if (!this.vllmConfig.model.tieWordEmbeddings) return {};
    const copy = maybePrefix(this.prefix, 'lm_head.weight');
    return { rename: (name) => (name === copy ? null : name) };
  }
}
