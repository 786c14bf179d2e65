import { eosTokenIds, generationDefaults } from '../../lib/config/generation-config';
import { parseHfConfig } from '../../lib/config/hf-config';
import { ropeParameters } from '../../lib/config/rope';
import { expectCode } from '../fixtures/expect-error';

const LLAMA = {
  architectures: ['LlamaForCausalLM'], model_type: 'llama', hidden_size: 64, num_hidden_layers: 3, num_attention_heads: 4,
  num_key_value_heads: 2, vocab_size: 512, intermediate_size: 128, max_position_embeddings: 512, rms_norm_eps: 1e-5, rope_theta: 10000,
};
const parse = (changes: Record<string, unknown>) => parseHfConfig({ ...LLAMA, ...changes });

describe('sizes', () => {
  it('come from the keys of the Llama family', () => {
    expect(parse({})).toMatchObject({
      architectures: ['LlamaForCausalLM'], hiddenSize: 64, numHiddenLayers: 3, numAttentionHeads: 4, numKeyValueHeads: 2, headDim: 16,
      vocabSize: 512, maxPositions: 512, slidingWindow: null, interleavedSlidingWindow: null, tieWordEmbeddings: false, torchDtype: null,
      quantization: null,
    });
  });

  it('come from the keys of GPT-2', () => {
    const gpt2 = { architectures: ['GPT2LMHeadModel'], model_type: 'gpt2', n_embd: 64, n_layer: 3, n_head: 4, n_positions: 512, n_inner: null, vocab_size: 512 };
    expect(parseHfConfig(gpt2)).toMatchObject({
      hiddenSize: 64, numHiddenLayers: 3, numAttentionHeads: 4, numKeyValueHeads: 4, headDim: 16, maxPositions: 512, tieWordEmbeddings: true,
    });
  });

  it('come from the keys of BLOOM', () => {
    const bloom = { architectures: ['BloomForCausalLM'], model_type: 'bloom', hidden_size: 64, n_layer: 3, n_head: 4, seq_length: 2048, vocab_size: 512 };
    expect(parseHfConfig(bloom)).toMatchObject({ numHiddenLayers: 3, numAttentionHeads: 4, maxPositions: 2048, tieWordEmbeddings: true });
    expect(parseHfConfig({ ...bloom, seq_length: undefined }).maxPositions).toBeNull();
  });

  it('have one KV head in multi-query models', () => {
    expect(parse({ multi_query: true }).numKeyValueHeads).toBe(1);
    expect(parse({ multi_query: true, new_decoder_architecture: true }).numKeyValueHeads).toBe(2);
  });

  it('take head_dim before hidden / heads', () => {
    expect(parse({ head_dim: 32 }).headDim).toBe(32);
    expect(parse({ head_dim: null }).headDim).toBe(16);
    expect(parse({ hidden_size: 65, head_dim: 32 }).headDim).toBe(32);
  });

  it('ignore auto_map', () => {
    expect(parse({ auto_map: { AutoModel: 'modeling_evil.Evil' } }).architectures).toEqual(['LlamaForCausalLM']);
  });

  it('read torch_dtype and the dtype of transformers 5', () => {
    expect(parse({ torch_dtype: 'bfloat16' }).torchDtype).toBe('bfloat16');
    expect(parse({ dtype: 'torch.float16' }).torchDtype).toBe('float16');
    expect(parse({ torch_dtype: 'int8' }).torchDtype).toBeNull();
  });
});

describe('a bad config.json', () => {
  const bad: [string, Record<string, unknown>][] = [
    ['architectures missing', { architectures: undefined }],
    ['architectures empty', { architectures: [] }],
    ['architectures a string', { architectures: 'LlamaForCausalLM' }],
    ['architectures of numbers', { architectures: [1] }],
    ['model_type a number', { model_type: 1 }],
    ['hidden_size missing', { hidden_size: undefined }],
    ['hidden_size null', { hidden_size: null }],
    ['hidden_size a string', { hidden_size: '64' }],
    ['hidden_size 0', { hidden_size: 0 }],
    ['hidden_size negative', { hidden_size: -64 }],
    ['hidden_size a fraction', { hidden_size: 64.5 }],
    ['hidden_size 2^53', { hidden_size: 2 ** 53 }],
    ['layers 0', { num_hidden_layers: 0 }],
    ['layers 10^9', { num_hidden_layers: 1e9 }],
    ['heads 0', { num_attention_heads: 0 }],
    ['heads that do not divide hidden_size', { num_attention_heads: 6, num_key_value_heads: 2 }],
    ['kv heads 0', { num_key_value_heads: 0 }],
    ['kv heads that do not divide heads', { num_key_value_heads: 3 }],
    ['more kv heads than heads', { num_key_value_heads: 8 }],
    ['head_dim 0', { head_dim: 0 }],
    ['head_dim 10^6', { head_dim: 1e6 }],
    ['vocab_size 0', { vocab_size: 0 }],
    ['vocab_size 2^31', { vocab_size: 2 ** 31 }],
    ['intermediate_size negative', { intermediate_size: -1 }],
    ['max_position_embeddings 0', { max_position_embeddings: 0 }],
    ['max_position_embeddings 10^18', { max_position_embeddings: 1e18 }],
    ['rms_norm_eps 0', { rms_norm_eps: 0 }],
    ['rms_norm_eps a string', { rms_norm_eps: '1e-5' }],
    ['rms_norm_eps NaN', { rms_norm_eps: NaN }],
    ['rope_theta 0', { rope_theta: 0 }],
    ['rope_theta 1e308', { rope_theta: 1e308 }],
    ['rope_theta Infinity', { rope_theta: Infinity }],
    ['rope_scaling a string', { rope_scaling: 'linear' }],
    ['rope_scaling factor 0', { rope_scaling: { rope_type: 'linear', factor: 0 } }],
    ['rope_scaling factor Infinity', { rope_scaling: { type: 'linear', factor: Infinity } }],
    ['rope_scaling type a number', { rope_scaling: { type: 1, factor: 2 } }],
    ['rope_scaling original length 0', { rope_scaling: { rope_type: 'yarn', factor: 2, original_max_position_embeddings: 0 } }],
    ['long_factor no array', { rope_scaling: { rope_type: 'longrope', long_factor: 1 } }],
    ['long_factor with NaN', { rope_scaling: { rope_type: 'longrope', long_factor: [1, NaN] } }],
    ['long_factor of 5000', { rope_scaling: { rope_type: 'longrope', long_factor: Array(5000).fill(1) } }],
    ['rope_parameters theta -1', { rope_parameters: { rope_type: 'default', rope_theta: -1 } }],
    ['rope_parameters of a layer type', { rope_parameters: { full_attention: { rope_type: 'default', rope_theta: 1e308 } } }],
    ['partial_rotary_factor 2', { partial_rotary_factor: 2 }],
    ['sliding_window 0', { sliding_window: 0 }],
    ['use_sliding_window a string', { use_sliding_window: 'no' }],
    ['layer_types of another length', { layer_types: ['full_attention'] }],
    ['layer_types of numbers', { layer_types: [1, 2, 3] }],
    ['tie_word_embeddings a number', { tie_word_embeddings: 1 }],
    ['more active experts than experts', { num_local_experts: 2, num_experts_per_tok: 3 }],
    ['quantization_config an array', { quantization_config: [] }],
    ['torch_dtype an object', { torch_dtype: {} }],
  ];
  it.each(bad)('is refused: %s', async (_name, changes) => {
    const error = await expectCode('ERR_KVASIR_MODEL_CONFIG', () => parse(changes));
    expect(error.message).toMatch(/config\.json/);
  });
});

describe('sliding windows', () => {
  const both = (changes: Record<string, unknown>) => {
    const { slidingWindow, interleavedSlidingWindow } = parse(changes);
    return [slidingWindow, interleavedSlidingWindow];
  };
  const sliding = 'sliding_attention';
  const full = 'full_attention';
  const cases: [string, Record<string, unknown>, [number | null, number | null]][] = [
    ['of every layer', { sliding_window: 16 }, [16, null]],
    ['null', { sliding_window: null }, [null, null]],
    ['switched off', { sliding_window: 16, use_sliding_window: false }, [null, null]],
    ['layer_types mixed', { sliding_window: 16, layer_types: [sliding, full, sliding] }, [null, 16]],
    ['layer_types all sliding', { sliding_window: 16, layer_types: [sliding, sliding, sliding] }, [16, null]],
    ['layer_types all full', { sliding_window: 16, layer_types: [full, full, full] }, [null, null]],
    ['of Gemma 2', { sliding_window: 16, model_type: 'gemma2' }, [null, 16]],
    ['after max_window_layers', { sliding_window: 16, use_sliding_window: true, max_window_layers: 1 }, [null, 16]],
    ['after max_window_layers: none', { sliding_window: 16, use_sliding_window: true, max_window_layers: 3 }, [null, null]],
  ];
  it.each(cases)('%s', (_name, changes, expected) => {
    expect(both(changes)).toEqual(expected);
  });
});

describe('rope parameters', () => {
  it('are the same in the styles of transformers 4 and 5', () => {
    const scaling = { rope_type: 'llama3', factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 64 };
    const { rope_type: _, ...extra } = scaling;
    const expected = { ropeType: 'llama3', theta: 500000, partialRotaryFactor: 1, extra };
    expect(ropeParameters({ rope_theta: 500000, rope_scaling: scaling })).toEqual(expected);
    expect(ropeParameters({ rope_parameters: { ...scaling, rope_theta: 500000 } })).toEqual(expected);
  });

  it('have defaults, and the names of GPT-NeoX', () => {
    expect(ropeParameters({})).toEqual({ ropeType: 'default', theta: 10000, partialRotaryFactor: 1, extra: {} });
    expect(ropeParameters({ rotary_pct: 0.25, rotary_emb_base: 7 })).toMatchObject({ theta: 7, partialRotaryFactor: 0.25 });
    expect(ropeParameters({ rope_scaling: { type: 'su' } }).ropeType).toBe('longrope');
  });

  it('may differ by layer type', () => {
    const config = { rope_parameters: { full_attention: { rope_type: 'default', rope_theta: 5 }, sliding_attention: { rope_type: 'default', rope_theta: 6 } } };
    expect(ropeParameters(config, 'full_attention').theta).toBe(5);
    expect(ropeParameters(config, 'sliding_attention').theta).toBe(6);
    expect(ropeParameters(config).theta).toBe(10000);
    expect(parse(config).maxPositions).toBe(512);
  });

  it('lengthen the model for linear, dynamic and yarn only', () => {
    const lengthOf = (rope_scaling: unknown) => parse({ rope_scaling }).maxPositions;
    expect(lengthOf({ rope_type: 'linear', factor: 2 })).toBe(1024);
    expect(lengthOf({ rope_type: 'yarn', factor: 4, original_max_position_embeddings: 100 })).toBe(400);
    expect(lengthOf({ rope_type: 'llama3', factor: 8 })).toBe(512);
    expect(lengthOf({ rope_type: 'linear', factor: 1e6 })).toBe(2 ** 28);
  });
});

describe('generation_config.json', () => {
  it('gives eos ids before config.json', () => {
    expect(eosTokenIds({ eos_token_id: [1, 2, 1] }, { eos_token_id: 3 }, 512)).toEqual([1, 2]);
    expect(eosTokenIds({ eos_token_id: 7 }, {}, 512)).toEqual([7]);
    expect(eosTokenIds({}, { eos_token_id: 3 }, 512)).toEqual([3]);
    expect(eosTokenIds(null, { eos_token_id: [4] }, 512)).toEqual([4]);
    expect(eosTokenIds(null, {}, 512)).toEqual([]);
  });

  it('leaves out eos ids that no output can hold', () => {
    expect(eosTokenIds({ eos_token_id: [-1, 511, 512] }, {}, 512)).toEqual([511]);
  });

  it.each([['2'], [1.5], [[null]], [{}], [Array(2000).fill(1)]])('refuses eos_token_id %p', async (eos_token_id) => {
    await expectCode('ERR_KVASIR_MODEL_CONFIG', () => eosTokenIds({ eos_token_id }, {}, 512));
  });

  it('gives sampling defaults in camelCase', () => {
    const config = { temperature: 0.6, top_p: 0.9, top_k: 20, min_p: 0.1, repetition_penalty: 1.1, max_new_tokens: 5, bos_token_id: 1 };
    const expected = { temperature: 0.6, topP: 0.9, topK: 20, minP: 0.1, repetitionPenalty: 1.1, maxTokens: 5 };
    expect(generationDefaults(config)).toEqual(expected);
    expect(generationDefaults({ ...config, do_sample: true })).toEqual(expected);
    expect(generationDefaults({ ...config, do_sample: false })).toEqual({});
    expect(generationDefaults({ temperature: null })).toEqual({});
    expect(generationDefaults(null)).toEqual({});
  });

  const wrong: Record<string, unknown>[] = [
    { temperature: -1 }, { temperature: 'hot' }, { top_p: 0 }, { top_p: 2 }, { top_k: 1.5 }, { top_k: -2 }, { min_p: 2 },
    { repetition_penalty: 0 }, { max_new_tokens: 0 }, { max_new_tokens: NaN },
  ];
  it.each(wrong)('refuses %p', async (config) => {
    const error = await expectCode('ERR_KVASIR_MODEL_CONFIG', () => generationDefaults(config));
    expect(error.message).toMatch(/^generation_config\.json/);
  });
});
