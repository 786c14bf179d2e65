import { Attention, type AttentionOptions } from '../../lib/layers/attention';
import { ColumnParallelLinear } from '../../lib/layers/linear';
import { LayerNorm, RMSNorm } from '../../lib/layers/norm';
import { VocabParallelEmbedding } from '../../lib/layers/vocab-embedding';
import { LlamaAttention, LlamaForCausalLM, LlamaModel } from '../../lib/models/llama';
import { loadWeights } from '../../lib/nn/load-weights';
import { extractLayerIndex, makeLayers, Module } from '../../lib/nn/module';
import { Parameter } from '../../lib/nn/parameter';
import type { VllmConfig } from '../../lib/config/vllm';
import { expectCode } from '../fixtures/expect-error';
import { makeVllmConfig } from '../fixtures/vllm-config';

const norm = { hiddenSize: 4, eps: 1e-5 };
const linear = { inputSize: 4, outputSize: 4, bias: false };

/** The outermost class as a literal reading of vLLM's guide has it: a dot after the empty prefix. */
class DotAtRoot extends Module {
  readonly model: LlamaModel;

  constructor(vllmConfig: VllmConfig, prefix: string) {
    super(prefix);
    this.model = new LlamaModel(vllmConfig, `${prefix}.model`);
  }
}

describe('a layer needs its full name', () => {
  it.each<[string, (config: VllmConfig, prefix: string) => Module, string]>([
    ['a linear layer', (config, prefix) => new ColumnParallelLinear(config, linear, prefix), '.weight'],
    ['an embedding', (config, prefix) => new VocabParallelEmbedding(config, { numEmbeddings: 64, embeddingDim: 4 }, prefix), '.weight'],
    ['an RMSNorm', (config, prefix) => new RMSNorm(config, norm, prefix), '.weight'],
    ['a LayerNorm', (config, prefix) => new LayerNorm(config, norm, prefix), '.weight'],
    ['attention', (config, prefix) => new Attention(config, { numHeads: 1, headDim: 4, scale: 1 }, prefix), ''],
  ])('%s refuses an empty prefix', async (_what, make, name) => {
    const error = await expectCode('ERR_KVASIR_LAYER', () => make(makeVllmConfig(), ''));
    expect(error.message).toContain(`received "${name}"`);
    expect(error.message).toContain('maybePrefix');
  });

  it('a dot after the empty prefix of the outermost module is refused by the first layer', async () => {
    const error = await expectCode('ERR_KVASIR_LAYER', () => new DotAtRoot(makeVllmConfig(), ''));
    expect(error.message).toContain('".model.embed_tokens.weight"');
  });

  it.each(['', 'language_model'])('below the prefix %p every weight has it', (prefix) => {
    const config = makeVllmConfig();
    const names = [...new LlamaForCausalLM(config, prefix).namedParameters().keys()];
    const start = prefix === '' ? '' : `${prefix}.`;
    expect(names).toContain(`${start}model.layers.1.self_attn.qkv_proj.weight`);
    expect(names.every((name) => name.startsWith(start) && !name.startsWith('.'))).toBe(true);
    expect([...config.staticForwardContext.keys()]).toEqual([0, 1].map((i) => `${start}model.layers.${i}.self_attn.attn`));
  });
});

describe('no two layers have one name', () => {
  it('attention says so when it is made: by name, and both times the same', async () => {
    const config = makeVllmConfig();
    const error = await expectCode('ERR_KVASIR_LAYER', () => makeLayers(2, () => new LlamaAttention(config, 'model.layers.0.self_attn'), 'model.layers'));
    expect(error.message).toContain('two attention layers have the prefix "model.layers.0.self_attn.attn"');
  });

  it('other layers when weights are loaded: the second would stay empty', async () => {
    class Twice extends Module {
      readonly a = new Parameter('mlp.weight', [1], 'float32');
      readonly b = new Parameter('mlp.weight', [1], 'float32');
    }
    const error = await expectCode('ERR_KVASIR_LAYER', () => loadWeights(new Twice(''), []));
    expect(error.message).toContain('"mlp.weight"');
  });
});

describe('extractLayerIndex', () => {
  it.each([
    ['model.layers.11.self_attn.attn', 11],
    ['language_model.model.layers.0', 0],
    ['transformer.h.3.ln_1', 3],
  ])('%s: %d', (prefix, index) => expect(extractLayerIndex(prefix)).toBe(index));

  it.each(['model.norm', '', 'model.layers.1.experts.2', 'model.layers1'])('%p has not exactly one number', async (prefix) => {
    const error = await expectCode('ERR_KVASIR_LAYER', () => extractLayerIndex(prefix));
    expect(error.message).toContain(`"${prefix}"`);
  });
});

describe('what the KV cache of a layer keeps', () => {
  const specOf = (slidingWindow: number | null, options: Partial<AttentionOptions> = {}) =>
    new Attention(makeVllmConfig({ model: { slidingWindow } }), { numHeads: 4, numKvHeads: 2, headDim: 8, scale: 1, ...options }, 'layers.0.attn').getKvCacheSpec();
  const full = { kind: 'full', numKvHeads: 2, headDim: 8 };
  const window = (slidingWindow: number) => ({ kind: 'slidingWindow', numKvHeads: 2, headDim: 8, slidingWindow });

  it.each<[string, number | null, Partial<AttentionOptions>, object]>([
    ['no window anywhere', null, {}, full],
    ['the window of the model', 128, {}, window(128)],
    ['its own window, not that of the model', 128, { perLayerSlidingWindow: 32 }, window(32)],
    ['its own window in a model that has none', null, { perLayerSlidingWindow: 32 }, window(32)],
    ['no window in a model that has one', 128, { perLayerSlidingWindow: null }, full],
  ])('%s', (_what, ofModel, options, expected) => expect(specOf(ofModel, options)).toEqual(expected));

  it('a model whose layers differ answers for each', () => {
    const hf = { layer_types: ['sliding_attention', 'full_attention'], sliding_window: 8 };
    const config = makeVllmConfig({ hf, model: { interleavedSlidingWindow: 8 } });
    const model = new LlamaForCausalLM(config, '');
    const specs = [...model.modules()].flatMap((module) => (module instanceof Attention ? [module.getKvCacheSpec()] : []));
    expect(specs.map((spec) => (spec.kind === 'full' ? null : spec.slidingWindow))).toEqual([8, null]);
  });
});
