import {
  AutoWeightsLoader, embedInputIds, initRegisteredModel, LLM, maybePrefix, ModelRegistry, Module, WeightsMapper,
  type Forward, type LoadedWeight, type ModelClass, type Tensor, type TextGenerationModel, type VllmConfig,
} from '../../lib/index';
import { describeShared, sharedPath } from '../fixtures/shared';
import { ModelCopy } from '../integration/model-copy';
import { comparable, readGolden } from './golden-suite';

/** A model around another, as models for images and text are: it embeds by itself and hands embeddings in. */
class Composite extends Module {
  protected readonly languageModel: TextGenerationModel;

  constructor(vllmConfig: VllmConfig, prefix: string, architectures: readonly string[] = ['LlamaForCausalLM']) {
    super(prefix);
    this.languageModel = initRegisteredModel(vllmConfig, maybePrefix(prefix, 'language_model'), architectures);
  }

  embedInputIds(inputIds: Tensor): Tensor {
    return embedInputIds(this.languageModel, inputIds);
  }

  forward(inputIds: Tensor, positions: Tensor): Tensor {
    return (this.languageModel.forward as Forward)(inputIds, positions, null, this.embedInputIds(inputIds));
  }

  computeLogits(hiddenStates: Tensor): Tensor {
    return this.languageModel.computeLogits!(hiddenStates);
  }

  loadWeights(weights: Iterable<LoadedWeight>): Set<string> {
    // The checkpoint is that of the inner model alone: each of its names gets the inner model's prefix.
    const mapper = new WeightsMapper({ origToNewPrefix: { '': `${this.languageModel.prefix}.` } });
    return new AutoWeightsLoader(this, { mapper }).loadWeights(weights);
  }
}

/** An inner model that was written when embedInputIds had its older name, and that loads nothing by itself. */
class OlderInner extends Module {
  private readonly inner: TextGenerationModel;

  constructor(vllmConfig: VllmConfig, prefix: string) {
    super(prefix);
    this.inner = initRegisteredModel(vllmConfig, prefix, ['LlamaForCausalLM']);
  }

  getInputEmbeddings(inputIds: Tensor): Tensor {
    return this.inner.embedInputIds!(inputIds);
  }

  forward(...args: Parameters<Forward>): Tensor {
    return (this.inner.forward as Forward)(...args);
  }

  computeLogits(hiddenStates: Tensor): Tensor {
    return this.inner.computeLogits!(hiddenStates);
  }
}

class CompositeOfOlder extends Composite {
  constructor(vllmConfig: VllmConfig, prefix: string) {
    super(vllmConfig, prefix, ['OlderInner']);
  }
}

beforeAll(() => {
  const models = { Composite, OlderInner, CompositeOfOlder };
  for (const [name, model] of Object.entries(models)) ModelRegistry.registerModel(name, model as ModelClass);
});

async function withComposite(architecture: string, work: (llm: LLM) => Promise<void>): Promise<void> {
  const copy = new ModelCopy(sharedPath('models/stories260K'));
  try {
    copy.editJson('config.json', (config) => Object.assign(config, { architectures: [architecture] }));
    const llm = await LLM.create({ model: copy.dir, dtype: 'float32', device: 'cpu' });
    try {
      await work(llm);
    } finally {
      await llm.close();
    }
  } finally {
    copy.remove();
  }
}

describeShared('a model around another one', () => {
  it.each(['Composite', 'CompositeOfOlder'])('%s generates what the reference of the inner one does', async (architecture) => {
    const { greedy } = readGolden('stories260K');
    await withComposite(architecture, async (llm) => {
      const maxTokens = Math.max(...greedy.map((row) => row.output_ids.length));
      const outputs = await llm.generate(greedy.map((row) => ({ promptTokenIds: row.prompt_ids })), { temperature: 0, maxTokens, ignoreEos: true });
      greedy.forEach((row, i) => {
        const expected = comparable(row, true);
        expect(outputs[i]!.outputs[0]!.tokenIds.slice(0, expected.length)).toEqual(expected);
      });
    });
  });
});
