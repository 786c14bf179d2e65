import { slidingWindows } from '../../lib/config/layer-windows';
import type { VllmConfig } from '../../lib/config/vllm';
import { buildModel, disposeModel } from '../../lib/loader/model-loader';
import { makeVllmConfig } from '../fixtures/vllm-config';

/** What Gemma 2 needs besides a Llama's fields. */
const GEMMA = { model_type: 'gemma2', query_pre_attn_scalar: 4 };

function configOf(architecture: string, hf: Record<string, unknown>): VllmConfig {
  const numHiddenLayers = 4;
  return makeVllmConfig({ hf, model: { architectures: [architecture], numHiddenLayers, ...slidingWindows(hf, numHiddenLayers) } });
}

function build<T>(config: VllmConfig, look: (model: ReturnType<typeof buildModel>) => T): T {
  const model = buildModel(config);
  try {
    return look(model);
  } finally {
    disposeModel(model);
  }
}

describe('windows of the attention layers', () => {
  const full = 'full_attention';
  const sliding = 'sliding_attention';

  it.each<readonly [string, Record<string, unknown>, readonly (number | null)[]]>([
    ['Gemma2ForCausalLM', { ...GEMMA, sliding_window: 16 }, [16, null, 16, null]],
    ['Gemma2ForCausalLM', { ...GEMMA, sliding_window: 16, layer_types: [full, full, sliding, full] }, [null, null, 16, null]],
    ['MistralForCausalLM', { sliding_window: 16 }, [16, 16, 16, 16]],
    ['MistralForCausalLM', { sliding_window: null }, [null, null, null, null]],
    ['MistralForCausalLM', { sliding_window: 16, layer_types: [full, sliding, sliding, sliding] }, [null, 16, 16, 16]],
    ['MistralForCausalLM', { sliding_window: 16, sliding_window_pattern: 4 }, [16, 16, 16, null]],
    ['MistralForCausalLM', { sliding_window: [null, 8, 32, 8] }, [null, 8, 32, 8]],
    ['MistralForCausalLM', { sliding_window: [8, null] }, [8, null, 8, null]],
    ['Qwen2ForCausalLM', { model_type: 'qwen2', sliding_window: 16, use_sliding_window: true, max_window_layers: 2 }, [null, null, 16, 16]],
    ['Qwen2ForCausalLM', { model_type: 'qwen2', sliding_window: 16, use_sliding_window: false, max_window_layers: 2 }, [null, null, null, null]],
    ['Qwen3ForCausalLM', { model_type: 'qwen3', sliding_window: 16, use_sliding_window: true, max_window_layers: 0 }, [16, 16, 16, 16]],
    ['Phi3ForCausalLM', { sliding_window: 2047 }, [2047, 2047, 2047, 2047]],
    ['MixtralForCausalLM', { sliding_window: 16, num_local_experts: 2, num_experts_per_tok: 1 }, [16, 16, 16, 16]],
    ['LlamaForCausalLM', {}, [null, null, null, null]],
  ])('%s, %j', (architecture, hf, windows) => {
    const config = configOf(architecture, hf);
    build(config, () => {
      const layers = [...config.staticForwardContext.values()];
      expect(layers.map((layer) => layer.layerName)).toEqual([0, 1, 2, 3].map((i) => `model.layers.${i}.self_attn.attn`));
      expect(layers.map((layer) => layer.slidingWindow)).toEqual(windows);
    });
  });
});

describe('parameters', () => {
  const namesOfLayer = (architecture: string, hf: Record<string, unknown>): string[] =>
    build(configOf(architecture, hf), (model) => {
      const layer = 'model.layers.0.';
      return [...model.parameters()].filter((p) => p.name.startsWith(layer)).map((p) => p.name.slice(layer.length)).sort();
    });
  const LLAMA = [
    'input_layernorm.weight', 'mlp.down_proj.weight', 'mlp.gate_up_proj.weight', 'post_attention_layernorm.weight', 'self_attn.o_proj.weight',
    'self_attn.qkv_proj.weight',
  ];

  it.each<readonly [string, Record<string, unknown>, readonly string[]]>([
    ['MistralForCausalLM', {}, []],
    ['Phi3ForCausalLM', {}, []],
    ['Qwen2ForCausalLM', {}, ['self_attn.qkv_proj.bias']],
    ['Qwen3ForCausalLM', {}, ['self_attn.k_norm.weight', 'self_attn.q_norm.weight']],
    ['Qwen3ForCausalLM', { attention_bias: true }, ['self_attn.k_norm.weight', 'self_attn.o_proj.bias', 'self_attn.q_norm.weight', 'self_attn.qkv_proj.bias']],
    ['Gemma2ForCausalLM', GEMMA, ['post_feedforward_layernorm.weight', 'pre_feedforward_layernorm.weight']],
  ])('%s %j has, beyond those of Llama, %j', (architecture, hf, more) => {
    expect(namesOfLayer(architecture, hf)).toEqual([...LLAMA, ...more].sort());
  });
});

it('Phi 3 rotates a part of each head', () => {
  build(configOf('Phi3ForCausalLM', { partial_rotary_factor: 0.5 }), (model) => {
    expect([...model.buffers()].map((buffer) => buffer.tensor.shape)).toEqual([[64, 2]]);
  });
});

it.each(['Gemma2ForCausalLM'])('%s needs query_pre_attn_scalar', (architecture) => {
  const config = configOf(architecture, { model_type: 'gemma2' });
  expect(() => buildModel(config)).toThrow(expect.objectContaining({ code: 'ERR_KVASIR_MODEL_CONFIG' }));
});
