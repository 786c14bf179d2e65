import { resolveVllmConfig } from '../../lib/config/resolve';
import { quantizationFromCheckpoint } from '../../lib/quantization/registry';
import type { ErrorCode } from '../../lib/utils/errors';
import { expectCode } from '../fixtures/expect-error';
import { describeShared, sharedPath } from '../fixtures/shared';

const W8 = { num_bits: 8, type: 'int', strategy: 'channel' };
const F8 = { num_bits: 8, type: 'float', strategy: 'channel' };
const compressed = (group: object, format: string | null = null, more: object = {}): object => ({ quant_method: 'compressed-tensors', format, config_groups: { g: { targets: ['Linear'], ...group } }, ...more });

describe('a quantization_config is refused', () => {
  it.each<[string, object, ErrorCode, string]>([
    ['fp8: activation_scheme', { quant_method: 'fp8', activation_scheme: 'none' }, 'ERR_KVASIR_QUANTIZATION', 'one of static, dynamic'],
    ['fp8: another float', { quant_method: 'fp8', fmt: 'e5m2' }, 'ERR_KVASIR_QUANTIZATION', 'e4m3'],
    ['fp8: a block of one number', { quant_method: 'fp8', weight_block_size: [128] }, 'ERR_KVASIR_QUANTIZATION', 'weight_block_size'],
    ['fp8: an empty block', { quant_method: 'fp8', weight_block_size: [128, 0] }, 'ERR_KVASIR_QUANTIZATION', 'two positive integers'],
    ['fp8: blocks with static activations', { quant_method: 'fp8', weight_block_size: [128, 128], activation_scheme: 'static' }, 'ERR_KVASIR_QUANTIZATION', 'dynamic'],
    ['fp8: a list of numbers', { quant_method: 'fp8', ignored_layers: [1] }, 'ERR_KVASIR_QUANTIZATION', 'array of names'],
    ['fp8: a list that is a name', { quant_method: 'fp8', ignored_layers: 'lm_head' }, 'ERR_KVASIR_QUANTIZATION', 'array of names'],
    ['awq: no group size', { quant_method: 'awq', bits: 4 }, 'ERR_KVASIR_QUANTIZATION', 'group_size'],
    ['awq: 8 bits', { quant_method: 'awq', bits: 8, group_size: 32 }, 'ERR_KVASIR_UNSUPPORTED', '8'],
    ['awq: version', { quant_method: 'awq', bits: 4, group_size: 32, version: 'gemv' }, 'ERR_KVASIR_UNSUPPORTED', 'gemv'],
    ['awq: no zero points', { quant_method: 'awq', bits: 4, group_size: 32, zero_point: false }, 'ERR_KVASIR_UNSUPPORTED', 'zero points'],
    ['gptq: no bits', { quant_method: 'gptq', group_size: 32 }, 'ERR_KVASIR_QUANTIZATION', 'bits'],
    ['gptq: a group of 0', { quant_method: 'gptq', bits: 4, group_size: 0 }, 'ERR_KVASIR_QUANTIZATION', 'group_size'],
    ['gptq: 3 bits', { quant_method: 'gptq', bits: 3, group_size: 32 }, 'ERR_KVASIR_UNSUPPORTED', '3'],
    ['gptq: 8 bits with zero points', { quant_method: 'gptq', bits: 8, group_size: 32, sym: false }, 'ERR_KVASIR_UNSUPPORTED', 'sym'],
    ['gptq: another format', { quant_method: 'gptq', bits: 4, group_size: 32, checkpoint_format: 'marlin' }, 'ERR_KVASIR_QUANTIZATION', 'checkpoint_format'],
    ['gptq: a rule with 2 bits', { quant_method: 'gptq', bits: 4, group_size: 32, dynamic: { x: { bits: 2 } } }, 'ERR_KVASIR_UNSUPPORTED', 'dynamic.x'],
    ['gptq: a pattern that is none', { quant_method: 'gptq', bits: 4, group_size: 32, dynamic: { '-:(': {} } }, 'ERR_KVASIR_QUANTIZATION', 'regular expression'],
    ['gptq: a rule without a pattern', { quant_method: 'gptq', bits: 4, group_size: 32, dynamic: { '-:': {} } }, 'ERR_KVASIR_QUANTIZATION', 'pattern'],
    ['gptq: a pattern without end', { quant_method: 'gptq', bits: 4, group_size: 32, dynamic: { ['x'.repeat(1001)]: {} } }, 'ERR_KVASIR_QUANTIZATION', '1001'],
    ['compressed: no groups', { quant_method: 'compressed-tensors' }, 'ERR_KVASIR_QUANTIZATION', 'config_groups'],
    ['compressed: a group that is a list', { quant_method: 'compressed-tensors', config_groups: { W8A8: ['Linear'] } }, 'ERR_KVASIR_QUANTIZATION', 'W8A8: expected an object'],
    ['compressed: sparse', compressed({ weights: W8 }, null, { sparsity_config: { format: 'sparse-24-bitmask' } }), 'ERR_KVASIR_UNSUPPORTED', 'sparse-24-bitmask'],
    ['compressed: transforms', compressed({ weights: W8 }, null, { transform_config: { config_groups: { R1: {} } } }), 'ERR_KVASIR_UNSUPPORTED', 'transform'],
    ['compressed: 4-bit floats', compressed({ weights: { num_bits: 4, type: 'float', strategy: 'tensor_group', group_size: 16 } }, 'nvfp4-pack-quantized'), 'ERR_KVASIR_UNSUPPORTED', 'nvfp4-pack-quantized'],
    ['compressed: W4A8', compressed({ weights: { ...W8, num_bits: 4 }, input_activations: { ...W8, strategy: 'token', dynamic: true } }, 'pack-quantized'), 'ERR_KVASIR_UNSUPPORTED', 'packed weights'],
    ['compressed: packed 2 bits', compressed({ weights: { ...W8, num_bits: 2 } }, 'pack-quantized'), 'ERR_KVASIR_UNSUPPORTED', '4 or 8 bits'],
    ['compressed: packed 8 bits with zero points', compressed({ weights: { ...W8, symmetric: false } }, 'pack-quantized'), 'ERR_KVASIR_UNSUPPORTED', 'symmetric'],
    ['compressed: asymmetric int8', compressed({ weights: { ...W8, symmetric: false } }, 'int-quantized'), 'ERR_KVASIR_UNSUPPORTED', 'asymmetric'],
    ['compressed: asymmetric static activations', compressed({ weights: W8, input_activations: { ...W8, strategy: 'tensor', symmetric: false } }, 'int-quantized'), 'ERR_KVASIR_UNSUPPORTED', 'static'],
    ['compressed: int activations of float weights', compressed({ weights: F8, input_activations: { ...W8, dynamic: true } }), 'ERR_KVASIR_UNSUPPORTED', 'same type'],
    ['compressed: floats in groups', compressed({ weights: { ...F8, strategy: 'group', group_size: 32 } }), 'ERR_KVASIR_UNSUPPORTED', 'group'],
    ['compressed: quantized outputs', compressed({ weights: W8, output_activations: W8 }), 'ERR_KVASIR_UNSUPPORTED', 'outputs'],
    ['compressed: an unknown strategy', compressed({ weights: { ...W8, strategy: 'diagonal' } }), 'ERR_KVASIR_QUANTIZATION', 'strategy'],
    ['compressed: a block without sizes', compressed({ weights: { ...F8, strategy: 'block' } }), 'ERR_KVASIR_QUANTIZATION', 'block_structure'],
    ['compressed: an ignore pattern that is none', compressed({ weights: W8 }, null, { ignore: ['re:['] }), 'ERR_KVASIR_QUANTIZATION', 'regular expression'],
    ['another method', { quant_method: 'bitsandbytes', load_in_4bit: true }, 'ERR_KVASIR_UNSUPPORTED', 'bitsandbytes'],
  ])('%s', async (_name, raw, code, text) => {
    const error = await expectCode(code, () => quantizationFromCheckpoint(raw));
    expect(error.message).toContain(text);
  });

  it('a configuration that was read before is taken as it is', () => {
    const config = quantizationFromCheckpoint({ quant_method: 'fp8' });
    expect(quantizationFromCheckpoint(config)).toBe(config);
  });

  it('"128x128" is a block too', () => {
    expect(() => quantizationFromCheckpoint(compressed({ weights: { ...F8, strategy: 'block', block_structure: '128x128' } }))).not.toThrow();
  });
});

describeShared('the option quantization', () => {
  const quantizationOf = async (model: string, quantization?: string | null): Promise<unknown> =>
    (await resolveVllmConfig({ model: sharedPath('models', model), quantization: quantization as 'fp8', device: 'cpu' })).quantization;

  it.each(['auto', 'fp8', null, undefined])('%p takes what an fp8 checkpoint says', async (option) => {
    expect(await quantizationOf('babyllama-tok105-fp8', option)).toMatchObject({ quant_method: 'fp8', activation_scheme: 'dynamic' });
  });

  it.each([
    ['auto', null],
    ['fp8', { quant_method: 'fp8', is_checkpoint_fp8_serialized: false }],
  ])('%p of a model that is not quantized', async (option, expected) => {
    expect(await quantizationOf('babyllama-tok105', option)).toEqual(expected);
  });

  it.each([
    ['babyllama-tok105-fp8', 'awq', '"fp8"'],
    ['babyllama-tok105-gptq-int4-g32', 'fp8', '"gptq"'],
    ['babyllama-tok105', 'gptq', 'auto or fp8'],
    ['babyllama-tok105', 'int5', 'one of auto'],
  ])('of %s must not be %s', async (model, option, text) => {
    const error = await expectCode('ERR_KVASIR_CONFIG', () => quantizationOf(model, option));
    expect(error.message).toContain("'quantization'");
    expect(error.message).toContain(text);
  });
});
