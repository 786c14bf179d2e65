/** Every format from a file to tokens: as good as the numbers it stands for, exactly, when computing in float32. */
import { liveStorages } from '../../lib/tensor/device';
import { describeShared } from '../fixtures/shared';
import { compressed, FLOAT8, FORMATS, group, INT4, PER_TOKEN } from './fixtures/formats';
import { ask, largestDifference, meanDifference, NUM_LAYERS, PROJECTIONS, QuantizedModel, weightTypes } from './fixtures/quantized-model';
import { awq, bfloat16, fp8, gptq, int8, packed, type Quantizer } from './fixtures/quantizers';

const layerNames = (indices: readonly number[], projections: readonly string[] = PROJECTIONS): string[] =>
  indices.flatMap((i) => projections.map((projection) => `model.layers.${i}.${projection}`));
const layerIndex = (name: string): number => Number(/layers\.(\d+)/.exec(name)![1]);

describeShared('a quantized model computes with the numbers of its checkpoint', () => {
  it.each(FORMATS)('$name', async ({ config, choose, dtype }) => {
    const model = new QuantizedModel(config, choose, 2);
    try {
      const [quantized, exact] = [await ask(model.quantized.dir), await ask(model.exact.dir)];
      expect(largestDifference(quantized.logprobs, exact.logprobs)).toBeLessThan(1e-3);
      expect(quantized.tokens).toEqual(exact.tokens);
      expect(new Set(Object.values(await weightTypes(model.quantized.dir)))).toEqual(new Set([dtype]));
      const rounded = await ask(model.quantized.dir, 'bfloat16');
      expect(meanDifference(rounded.logprobs, exact.logprobs)).toBeLessThan(0.1);
      expect(liveStorages().count).toBe(0);
    } finally {
      model.remove();
    }
  });
});

describeShared('layers of one checkpoint in several forms', () => {
  /** Runs a model against its exact values; the types of its layers. */
  async function typesOf(config: Record<string, unknown>, choose: (name: string) => Quantizer | null): Promise<Record<string, string>> {
    const model = new QuantizedModel(config, choose);
    try {
      const [quantized, exact] = [await ask(model.quantized.dir), await ask(model.exact.dir)];
      expect(largestDifference(quantized.logprobs, exact.logprobs)).toBeLessThan(1e-3);
      expect(quantized.tokens).toEqual(exact.tokens);
      return await weightTypes(model.quantized.dir);
    } finally {
      model.remove();
    }
  }

  it('fp8: layers 0 and 1 quantized, the others bfloat16 by ignored_layers', async () => {
    const config = { quant_method: 'fp8', ignored_layers: ['lm_head', ...layerNames([2, 3, 4])] };
    const types = await typesOf(config, (name) => (layerIndex(name) < 2 ? fp8({ blockN: 'all', blockK: 'all' }) : bfloat16));
    expect(Object.keys(types)).toHaveLength(4 * NUM_LAYERS);
    for (const [name, dtype] of Object.entries(types)) expect([name, dtype]).toEqual([name, Number(name[0]) < 2 ? 'float8_e4m3' : 'float32']);
  });

  it('gptq: dynamic rules give 8 bits, other groups, or nothing; the first that matches counts', async () => {
    const dynamic = {
      '-:model\\.layers\\.0\\..*': {},
      '+:.*\\.1\\.mlp\\.': { bits: 8 },
      '.*\\.(2|0)\\.self_attn\\.(q|k|v)_proj': { group_size: 64, sym: false },
      '-:.*\\.3\\.mlp\\.down_proj$': {},
    };
    const config = { quant_method: 'gptq', bits: 4, group_size: 32, sym: true, desc_act: false, lm_head: false, dynamic };
    const types = await typesOf(config, (name) => {
      if (name.includes('.layers.0.') || name.endsWith('3.mlp.down_proj')) return null;
      if (name.includes('.1.mlp.')) return gptq({ bits: 8, groupSize: 32 });
      if (/\.2\.self_attn\.[qkv]_proj/.test(name)) return gptq({ bits: 4, groupSize: 64, asymmetric: true });
      return gptq({ bits: 4, groupSize: 32 });
    });
    const expected = (name: string): string => (name.startsWith('0.') || name === '3.mlp.down_proj' ? 'float32' : name.startsWith('1.mlp') ? 'int8' : 'uint8');
    for (const [name, dtype] of Object.entries(types)) expect([name, dtype]).toEqual([name, expected(name)]);
  });

  it('gptq: modules_in_block_to_quantize lists parts of names, in lists of lists', async () => {
    const config = { quant_method: 'gptq', bits: 4, group_size: 32, modules_in_block_to_quantize: [['self_attn.k_proj', 'self_attn.v_proj', 'self_attn.q_proj'], ['mlp.down_proj']] };
    const types = await typesOf(config, (name) => (/[qkv]_proj|down_proj/.test(name) ? gptq({ bits: 4, groupSize: 32 }) : null));
    for (const [name, dtype] of Object.entries(types)) expect([name, dtype]).toEqual([name, /qkv_proj|down_proj/.test(name) ? 'uint8' : 'float32']);
  });

  it('awq: modules_to_not_convert lists parts of names', async () => {
    const config = { quant_method: 'awq', bits: 4, group_size: 32, modules_to_not_convert: ['self_attn', '.4.mlp', 'lm_head'] };
    const types = await typesOf(config, (name) => (/self_attn|\.4\.mlp/.test(name) ? null : awq(32)));
    for (const [name, dtype] of Object.entries(types)) expect([name, dtype]).toEqual([name, /self_attn|^4\.mlp/.test(name) ? 'float32' : 'uint8']);
  });

  it.each([
    ['awq', awq(32)],
    ['gptq', gptq({ bits: 4, groupSize: 32 })],
  ])('%s: without a list, the types of the tensors say what was left out', async (quant_method, quantizer) => {
    const types = await typesOf({ quant_method, bits: 4, group_size: 32, modules_to_not_convert: null }, (name) => (/gate_proj|up_proj/.test(name) ? null : quantizer));
    for (const [name, dtype] of Object.entries(types)) expect([name, dtype]).toEqual([name, name.includes('gate_up') ? 'float32' : 'uint8']);
  });

  it('compressed-tensors: groups by name, pattern and class, each with its scheme; ignore by name and pattern', async () => {
    const groups = {
      group_0: { ...group(INT4, null, ['re:.*self_attn\\.(q|k|v)_proj']), format: 'pack-quantized' },
      group_1: { ...group({ ...FLOAT8, strategy: 'channel' }, { ...FLOAT8, strategy: 'token', dynamic: true }, ['model.layers.1.mlp.down_proj']), format: 'float-quantized' },
      group_2: { ...group({ num_bits: 8, type: 'int', symmetric: true, strategy: 'channel' }, PER_TOKEN, ['RowParallelLinear', 'mergedcolumn']), format: 'int-quantized' },
    };
    const config = compressed('mixed-precision', groups, ['model.layers.0.self_attn.o_proj', 're:.*layers\\.4\\.', 're:.*lm_head']);
    const types = await typesOf(config, (name) => {
      if (name.includes('.layers.4.') || name === 'model.layers.0.self_attn.o_proj') return null;
      if (/[qkv]_proj/.test(name)) return packed({ bits: 4, groupSize: 32 });
      return name === 'model.layers.1.mlp.down_proj' ? fp8({ blockN: 1, blockK: 'all' }) : int8('channel');
    });
    const expected = (name: string): string => {
      if (name.startsWith('4.') || name === '0.self_attn.o_proj') return 'float32';
      if (name.includes('qkv')) return 'uint8';
      return name === '1.mlp.down_proj' ? 'float8_e4m3' : 'int8';
    };
    for (const [name, dtype] of Object.entries(types)) expect([name, dtype]).toEqual([name, expected(name)]);
  });
});

describeShared("quantization: 'fp8' of a model in full precision", () => {
  it('gives what a checkpoint with one scale per output would give', async () => {
    const model = new QuantizedModel({ quant_method: 'fp8' }, () => fp8({ blockN: 1, blockK: 'all' }), 2);
    try {
      const source = model.exact.dir; // its values are fp8 numbers times a scale already
      const [online, exact] = [await ask(source, 'float32', { quantization: 'fp8' }), await ask(source)];
      expect(largestDifference(online.logprobs, exact.logprobs)).toBeLessThan(1e-3);
      expect(online.tokens).toEqual(exact.tokens);
      expect(new Set(Object.values(await weightTypes(source, { quantization: 'fp8' })))).toEqual(new Set(['float8_e4m3']));
      expect(liveStorages().count).toBe(0);
    } finally {
      model.remove();
    }
  });
});
