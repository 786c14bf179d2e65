import type { QuantizableLayer, QuantizationConfig } from '../../lib/quantization/method';
import { quantizationFromCheckpoint } from '../../lib/quantization/registry';
import { expectCode } from '../fixtures/expect-error';

const LAYER = 'model.layers.3';
const linear = (name: string): [QuantizableLayer, string] => [{ kind: 'linear', className: 'RowParallelLinear', parts: [`${LAYER}.${name}`] }, `${LAYER}.${name}`];
const qkv = (): [QuantizableLayer, string] => {
  const parts = ['q_proj', 'k_proj', 'v_proj'].map((part) => `${LAYER}.self_attn.${part}`);
  return [{ kind: 'linear', className: 'QKVParallelLinear', parts }, `${LAYER}.self_attn.qkv_proj`];
};
const head = (kind: 'lm_head' | 'embedding' = 'lm_head'): [QuantizableLayer, string] => [{ kind, className: 'ParallelLMHead', parts: ['lm_head'] }, 'lm_head'];

/** Modules of a decoder layer as a model has them, and what is around it. */
const MODULES = ['', 'model', 'model.embed_tokens', LAYER, `${LAYER}.self_attn`, `${LAYER}.self_attn.qkv_proj`, `${LAYER}.self_attn.attn`, `${LAYER}.mlp`, `${LAYER}.mlp.down_proj`, `${LAYER}.input_layernorm`, 'model.norm'];

const Q = `${LAYER}.self_attn.q_proj`;
const QKV_NAMES = ['q_proj', 'k_proj', 'v_proj'].map((part) => `${LAYER}.self_attn.${part}`);
const DOWN = `${LAYER}.mlp.down_proj`;

const fp8 = (fields: object = {}): QuantizationConfig => quantizationFromCheckpoint({ quant_method: 'fp8', activation_scheme: 'dynamic', ...fields });
const awq = (fields: object = {}): QuantizationConfig => quantizationFromCheckpoint({ quant_method: 'awq', bits: 4, group_size: 32, ...fields });
const gptq = (fields: object = {}, types: ReadonlyMap<string, string> | null = null): QuantizationConfig =>
  quantizationFromCheckpoint({ quant_method: 'gptq', bits: 4, group_size: 32, ...fields }, types);
const W4 = { num_bits: 4, type: 'int', strategy: 'group', group_size: 32 };
const compressed = (fields: object = {}, group: object = {}): QuantizationConfig =>
  quantizationFromCheckpoint({ quant_method: 'compressed-tensors', format: 'pack-quantized', config_groups: { group_0: { targets: ['Linear'], weights: W4, ...group } }, ...fields });

const isQuantized = (config: QuantizationConfig, [layer, prefix]: [QuantizableLayer, string]): boolean => !config.getQuantMethod(layer, prefix)!.isUnquantized;

/** All layers of the model are asked, then the lists are checked. */
function build(config: QuantizationConfig): void {
  for (const [layer, prefix] of [qkv(), linear('mlp.down_proj')]) config.getQuantMethod(layer, prefix);
  config.checkModel!(MODULES);
}

describe('which layers are quantized', () => {
  it.each<[string, QuantizationConfig, boolean, boolean]>([
    ['fp8: all', fp8(), true, true],
    ['fp8: an entry equals the name', fp8({ ignored_layers: [DOWN] }), true, false],
    ['fp8: all parts of a fused layer', fp8({ ignored_layers: QKV_NAMES }), false, true],
    ['fp8: the fused layer itself', fp8({ ignored_layers: [`${LAYER}.self_attn.qkv_proj`] }), false, true],
    ['fp8: the old key', fp8({ modules_to_not_convert: [DOWN] }), true, false],
    ['fp8: the new key counts before the old one', fp8({ ignored_layers: [DOWN], modules_to_not_convert: QKV_NAMES }), true, false],
    ['fp8: a short name is no match', fp8({ ignored_layers: ['down_proj'] }), true, true],
    ['fp8: no substring', fp8({ ignored_layers: [`${LAYER}.mlp`] }), true, true],
    ['awq: all', awq(), true, true],
    ['awq: a part of the name', awq({ modules_to_not_convert: ['down_proj'] }), true, false],
    ['awq: a part of all names of a fused layer', awq({ modules_to_not_convert: ['self_attn'] }), false, true],
    ['awq: any part', awq({ modules_to_not_convert: ['layers.3.m'] }), true, false],
    ['gptq: all', gptq(), true, true],
    ['gptq: the positive list holds parts of names', gptq({ modules_in_block_to_quantize: ['self_attn'] }), true, false],
    ['gptq: an empty positive list is all', gptq({ modules_in_block_to_quantize: [] }), true, true],
    ['gptq: a rule skips', gptq({ dynamic: { '-:.*down_proj': {} } }), true, false],
    ['gptq: rules are anchored at the start', gptq({ dynamic: { '-:down_proj': {} } }), true, true],
    ['gptq: but not at the end', gptq({ dynamic: { '-:model\\.layers\\.3\\.mlp': {} } }), true, false],
    ['gptq: the first rule that matches counts', gptq({ dynamic: { '+:.*down': {}, '-:.*down_proj': {} } }), true, true],
    ['gptq: a rule for the fused layer', gptq({ dynamic: { '-:.*qkv_proj': {} } }), false, true],
    ['compressed: all Linear', compressed(), true, true],
    ['compressed: ignore by name', compressed({ ignore: [DOWN] }), true, false],
    ['compressed: ignore by pattern, anchored at the start', compressed({ ignore: ['re:.*mlp'] }), true, false],
    ['compressed: a pattern that does not begin at the start', compressed({ ignore: ['re:mlp'] }), true, true],
    ['compressed: no substring without re:', compressed({ ignore: ['down_proj'] }), true, true],
    ['compressed: ignore the fused layer', compressed({ ignore: [`${LAYER}.self_attn.qkv_proj`] }), false, true],
    ['compressed: target by class, in any case', compressed({}, { targets: ['rowparallel'] }), false, true],
    ['compressed: target by name', compressed({}, { targets: [DOWN] }), false, true],
    ['compressed: target by pattern', compressed({}, { targets: ['re:.*[qkv]_proj'] }), true, false],
    ['compressed: a group without weights', compressed({}, { weights: null }), false, false],
  ])('%s', (_name, config, attention, mlp) => {
    expect([isQuantized(config, qkv()), isQuantized(config, linear('mlp.down_proj'))]).toEqual([attention, mlp]);
  });

  it.each<[string, QuantizationConfig, boolean]>([
    ['fp8 never', fp8(), false],
    ['awq by default not', awq(), false],
    ['awq when it says so', awq({ lm_head: true }), true],
    ['gptq by default not', gptq(), false],
    ['gptq when it says so', gptq({ lm_head: true }), true],
    ['gptq, whatever lists of blocks say', gptq({ lm_head: true, modules_in_block_to_quantize: ['self_attn'] }), true],
    ['gptq, unless a rule skips it', gptq({ lm_head: true, dynamic: { '-:lm_head': {} } }), false],
    ['compressed: it was a Linear', compressed(), true],
    ['compressed, unless ignored', compressed({ ignore: ['lm_head'] }), false],
  ])('a head of its own: %s', (_name, config, expected) => {
    expect(isQuantized(config, head())).toBe(expected);
    expect(isQuantized(config, head('embedding'))).toBe(false); // tied: the embedding stays as it is
  });

  it.each([fp8(), awq(), gptq(), compressed()])('experts have no method: %p', ({ name }) => {
    const config = { fp8, awq, gptq, 'compressed-tensors': compressed }[name]!();
    const experts: QuantizableLayer = { kind: 'moe', className: 'FusedMoE', parts: [`${LAYER}.mlp.experts.0.up_proj`, `${LAYER}.mlp.experts.1.up_proj`] };
    if (name !== 'compressed-tensors') expect(config.getQuantMethod(experts, `${LAYER}.mlp.experts`)).toBeNull();
    expect(config.getQuantMethod({ kind: 'attention', className: 'Attention', parts: ['a'] }, 'a')).toBeNull();
  });

  it('the types of the tensors say what recipes without a list left out; parts must agree', async () => {
    const plain = new Map(QKV_NAMES.map((name) => [`${name}.weight`, 'BF16']));
    expect(isQuantized(gptq({}, plain), qkv())).toBe(false);
    expect(isQuantized(gptq({}, new Map([[`${LAYER}.self_attn.qkv_proj.weight`, 'F16']])), qkv())).toBe(false);
    expect(isQuantized(gptq({}, new Map([[`${DOWN}.qweight`, 'I32']])), linear('mlp.down_proj'))).toBe(true);
    expect(isQuantized(gptq({ modules_in_block_to_quantize: ['self_attn'] }, plain), qkv())).toBe(true);
    const error = await expectCode('ERR_KVASIR_QUANTIZATION', () => isQuantized(gptq({}, new Map([[`${Q}.weight`, 'F32']])), qkv()));
    expect(error.message).toContain(`${Q}: plain`);
  });
});

describe('a fused layer has one scheme', () => {
  it.each<[string, () => QuantizationConfig, string]>([
    ['fp8', () => fp8({ ignored_layers: [Q] }), 'ignored_layers'],
    ['awq', () => awq({ modules_to_not_convert: ['k_proj'] }), 'modules_to_not_convert'],
    ['awq, a part whose name is a part of that of the fused layer', () => awq({ modules_to_not_convert: ['v_proj'] }), 'modules_to_not_convert'],
    ['gptq, positive list', () => gptq({ modules_in_block_to_quantize: ['q_proj', 'v_proj'] }), 'modules_in_block_to_quantize'],
    ['gptq, a rule that skips', () => gptq({ dynamic: { '-:.*v_proj': {} } }), 'dynamic'],
    ['gptq, a rule with other options', () => gptq({ dynamic: { '.*v_proj': { bits: 8 } } }), 'dynamic'],
    ['compressed, ignore', () => compressed({ ignore: [Q] }), 'ignore'],
    ['compressed, targets', () => compressed({}, { targets: ['re:.*[qk]_proj'] }), 'config_groups'],
    ['compressed, a target of one part', () => compressed({}, { targets: ['re:.*v_proj'] }), 'config_groups'],
  ])('%s', async (_name, make, list) => {
    const [layer, prefix] = qkv();
    const error = await expectCode('ERR_KVASIR_QUANTIZATION', () => make().getQuantMethod(layer, prefix));
    expect(error.message).toContain(`${prefix} is one matrix`);
    expect(error.message).toContain(list);
    for (const name of QKV_NAMES) expect(error.message).toContain(name);
  });

  it('rules that say the same in other words agree', () => {
    const config = gptq({ dynamic: { '.*q_proj': { bits: 8 }, '+:.*[kv]_proj': { bits: 8, group_size: 32 } } });
    expect(isQuantized(config, qkv())).toBe(true);
  });
});

describe('an entry that means no layer is an error when the model is built', () => {
  it.each<[string, () => QuantizationConfig, string, string]>([
    ['fp8, a short name', () => fp8({ ignored_layers: [DOWN, 'down_proj'] }), '"down_proj"', `similar layers: ${DOWN}`],
    ['fp8, a part of the model', () => fp8({ ignored_layers: [`${LAYER}.mlp`] }), `"${LAYER}.mlp"`, "equal a layer's full name"],
    ['fp8, the names of another model', () => fp8({ modules_to_not_convert: ['transformer.h.0.attn'] }), '"transformer.h.0.attn"', 'modules_to_not_convert'],
    ['awq', () => awq({ modules_to_not_convert: ['visual'] }), '"visual"', 'modules_to_not_convert'],
    ['gptq, positive list', () => gptq({ modules_in_block_to_quantize: ['self_attn', 'mlp.down_proj', 'mlp.fc1'] }), '"mlp.fc1"', 'modules_in_block_to_quantize'],
    ['gptq, a rule', () => gptq({ dynamic: { '-:.*down_proj': {}, '+:layers.3': {} } }), '"+:layers.3"', 'dynamic'],
    ['compressed, ignore by name', () => compressed({ ignore: ['model.layers.7.mlp.down_proj'] }), '"model.layers.7.mlp.down_proj"', 'ignore'],
    ['compressed, ignore by pattern', () => compressed({ ignore: ['re:vision.*'] }), '"re:vision.*"', 'ignore'],
    ['compressed, a target', () => compressed({}, { targets: ['Linear', 're:.*experts.*'] }), '"re:.*experts.*"', 'targets'],
  ])('%s', async (_name, make, entry, text) => {
    const error = await expectCode('ERR_KVASIR_QUANTIZATION', () => build(make()));
    expect(error.message).toContain(entry);
    expect(error.message).toContain(text);
  });

  it.each<[string, () => QuantizationConfig]>([
    ['a head that this model does not have', () => fp8({ ignored_layers: ['lm_head'] })],
    ['the same as a pattern', () => compressed({ ignore: ['re:.*lm_head', 'lm_head'] })],
    ['layers that are never quantized', () => fp8({ ignored_layers: ['model.embed_tokens', `${LAYER}.input_layernorm`, 'model.norm', `${LAYER}.self_attn.attn`] })],
    ['a part of their names', () => awq({ modules_to_not_convert: ['norm', 'embed', 'down_proj', 'lm_head'] })],
    ['a rule that another one hides', () => gptq({ dynamic: { '.*down': {}, '-:.*down_proj': {} } })],
    ['two classes that a layer is', () => compressed({}, { targets: ['Linear', 'QKVParallelLinear'] })],
    ['nothing at all', () => gptq()],
  ])('but not %s', (_name, make) => expect(() => build(make())).not.toThrow());
});
