import { kvCacheDtypeOf, mayHaveKvScales } from '../../lib/layers/kv-scales';
import { quantizationFromCheckpoint } from '../../lib/quantization/registry';
import { expectCode } from '../fixtures/expect-error';
import { makeVllmConfig } from '../fixtures/vllm-config';

const SCHEME = { num_bits: 8, type: 'float', strategy: 'tensor', dynamic: false, symmetric: true };
const GROUPS = { g: { targets: ['Linear'], weights: { num_bits: 8, type: 'float', strategy: 'channel' } } };
const compressed = (scheme: object | null, groups: object = GROUPS) => ({ quant_method: 'compressed-tensors', config_groups: groups, kv_cache_scheme: scheme });

describe('the type of the KV cache', () => {
  const dtypeOf = (quantization: object | null, kvCacheDtype: 'auto' | 'fp8') =>
    kvCacheDtypeOf(makeVllmConfig({ model: { dtype: 'bfloat16' }, cache: { kvCacheDtype }, quantization: quantizationFromCheckpoint(quantization) }));

  it.each<[string, object | null, string]>([
    ['a checkpoint that is not quantized', null, 'bfloat16'],
    ['fp8 weights alone', { quant_method: 'fp8' }, 'bfloat16'],
    ['compressed-tensors without a scheme', compressed(null), 'bfloat16'],
    ['kv_cache_scheme', compressed(SCHEME), 'float8_e4m3'],
    ['kv_cache_scheme without what is the default', compressed({ num_bits: 8, type: 'float' }), 'float8_e4m3'],
    ['kv_cache_scheme and no quantized weights', compressed(SCHEME, {}), 'float8_e4m3'],
  ])("'auto', %s", (_name, quantization, expected) => {
    expect(dtypeOf(quantization, 'auto')).toBe(expected);
    expect(dtypeOf(quantization, 'fp8')).toBe('float8_e4m3');
  });

  it('has scales to look for in quantized checkpoints and when it is fp8', () => {
    const may = (quantization: object | null, kvCacheDtype: 'auto' | 'fp8') =>
      mayHaveKvScales(makeVllmConfig({ cache: { kvCacheDtype }, quantization: quantizationFromCheckpoint(quantization) }));
    expect([may(null, 'auto'), may(null, 'fp8'), may({ quant_method: 'fp8' }, 'auto')]).toEqual([false, true, true]);
  });

  it.each([
    ['integers', { type: 'int' }, 'type: expected float, received "int"'],
    ['no type', { type: null }, 'type: expected float, received null'],
    ['4 bits', { num_bits: 4 }, 'num_bits: expected 8, received 4'],
    ['a scale per head', { strategy: 'attn_head' }, 'strategy: expected tensor, received "attn_head"'],
    ['zero points', { symmetric: false }, 'symmetric: expected true'],
    ['scales made at run time', { dynamic: true }, 'dynamic: expected false'],
  ])('kv_cache_scheme is refused with %s', async (_name, change, text) => {
    const error = await expectCode('ERR_KVASIR_UNSUPPORTED', () => quantizationFromCheckpoint(compressed({ ...SCHEME, ...change })));
    expect(error.message).toContain(`quantization_config.kv_cache_scheme: ${text}`);
  });
});
