import type { VllmConfig } from '../../lib/config/vllm';
import { LLM } from '../../lib/index';
import { ColumnParallelLinear, ReplicatedLinear, RowParallelLinear } from '../../lib/layers/linear';
import type { LinearBase } from '../../lib/layers/linear-base';
import { MergedColumnParallelLinear } from '../../lib/layers/merged-linear';
import { ParallelLMHead } from '../../lib/layers/vocab-embedding';
import { quantizationFromCheckpoint } from '../../lib/quantization/registry';
import { liveStorages } from '../../lib/tensor/device';
import { expectCode } from '../fixtures/expect-error';
import { describeShared, sharedPath } from '../fixtures/shared';
import { makeVllmConfig } from '../fixtures/vllm-config';
import { ModelCopy } from '../integration/model-copy';
import { floats, gptq, int32s } from './fixtures/quantizers';
import { QuantizedModel } from './fixtures/quantized-model';

const on = (quantization: object, tensorParallelSize = 1, tpRank = 0): VllmConfig =>
  makeVllmConfig({ parallel: { tensorParallelSize, tpRank }, quantization: quantizationFromCheckpoint(quantization) });
const BLOCKS = { quant_method: 'fp8', weight_block_size: [16, 32] };
const GPTQ = { quant_method: 'gptq', bits: 4, group_size: 32 };
const AWQ = { quant_method: 'awq', bits: 4, group_size: 32 };
const packedInt = (weights: object): Record<string, unknown> => ({ quant_method: 'compressed-tensors', format: 'pack-quantized', config_groups: { g: { targets: ['Linear'], weights } } });
const PACKED = packedInt({ num_bits: 4, type: 'int', strategy: 'group', group_size: 32 });

const column = (config: VllmConfig, outputSize: number, inputSize = 64): LinearBase => new ColumnParallelLinear(config, { inputSize, outputSize, bias: false }, 'l');
const row = (config: VllmConfig, inputSize: number, outputSize = 64): LinearBase => new RowParallelLinear(config, { inputSize, outputSize, bias: false }, 'l');
const merged = (config: VllmConfig, ...outputSizes: number[]): LinearBase => new MergedColumnParallelLinear(config, { inputSize: 64, outputSizes, partNames: outputSizes.map((_, i) => `p${i}`), bias: false }, 'l');

function shapes(layer: LinearBase): Record<string, readonly number[]> {
  const result = Object.fromEntries(Object.entries(layer.params).map(([name, param]) => [name, param.shape]));
  for (const param of layer.parameters()) param.dispose();
  return result;
}

describe('blocks of fp8 scales', () => {
  it.each<[string, () => LinearBase, string]>([
    ['inputs of a rank of a row-parallel layer', () => row(on(BLOCKS, 2), 96), '48 inputs on one rank are not a multiple of 32'],
    ['outputs of a rank of a column-parallel layer', () => column(on(BLOCKS, 2), 48), '24 outputs is not a multiple of 16'],
    ['a part that another one follows', () => merged(on(BLOCKS), 24, 32), '24 outputs is not a multiple of 16'],
    ['the last part of a rank', () => merged(on(BLOCKS, 2), 32, 48), '24 outputs is not a multiple of 16'],
  ])('must not lie across a border: %s', async (_name, make, text) => {
    const error = await expectCode('ERR_KVASIR_QUANTIZATION', make);
    expect(error.message).toContain(text);
    expect(error.message).toContain('l: ');
  });

  it.each<[string, () => LinearBase, readonly number[]]>([
    ['inputs on one rank', () => row(on(BLOCKS), 48), [4, 2]],
    ['outputs on one rank', () => column(on(BLOCKS), 24), [2, 2]],
    ['the last part on one rank', () => merged(on(BLOCKS), 32, 24), [4, 2]],
    ['row-parallel outputs on several ranks', () => row(on(BLOCKS, 2), 128, 24), [2, 2]],
    ['column-parallel inputs on several ranks', () => column(on(BLOCKS, 2), 64, 40), [2, 2]],
  ])('may be cut short by the end: %s', (_name, make, scales) => expect(shapes(make()).scales).toEqual(scales));

  it('inputs of a block must be steps of the kernels', async () => {
    await expectCode('ERR_KVASIR_UNSUPPORTED', () => column(on({ quant_method: 'fp8', weight_block_size: [16, 6] }), 32));
  });
});

describe('packed integers', () => {
  it.each<[string, () => LinearBase, string]>([
    ['gptq: outputs that fill no words', () => column(on(GPTQ), 20), '20 outputs'],
    ['awq: outputs of a part that fill no words', () => merged(on(AWQ), 64, 12), '12 outputs'],
    ['awq: outputs of a rank', () => column(on(AWQ, 4), 48), '12 outputs'],
    ['compressed: with zero points packed along the outputs', () => column(on(packedInt({ num_bits: 4, type: 'int', strategy: 'group', group_size: 32, symmetric: false })), 12), '12 outputs'],
    ['gptq: inputs that are no whole groups', () => row(on(GPTQ), 80), '80 inputs'],
    ['gptq: inputs of a rank that are no steps of the kernels', () => row(on(GPTQ, 8), 32), '4 inputs'],
    ['compressed: groups that are no steps of the kernels', () => column(on(packedInt({ num_bits: 4, type: 'int', strategy: 'group', group_size: 4 })), 16), 'groups of 4'],
  ])('are refused: %s', async (_name, make, text) => {
    const error = await expectCode('ERR_KVASIR_UNSUPPORTED', make);
    expect(error.message).toContain(text);
    expect(error.message).toContain('l: ');
  });

  it('shapes on one rank of two', () => {
    expect(shapes(row(on(GPTQ, 2), 128, 64))).toMatchObject({ weight: [64, 32], scales: [64, 2], qweightSource: [8, 64], qzerosSource: [2, 8], scalesSource: [2, 64], g_idxSource: [1, 64] });
    expect(shapes(row(on({ ...GPTQ, group_size: -1, desc_act: true }, 2), 128, 64))).toMatchObject({ scales: [64, 1], scalesSource: [1, 64] });
    expect(shapes(row(on(GPTQ, 4, 1), 64, 64))).toMatchObject({ weight: [64, 8], scales: [64, 1], qzerosSource: [1, 8], scalesSource: [1, 64] });
    expect(shapes(row(on(AWQ, 2, 1), 96, 64))).toMatchObject({ weight: [64, 24], scales: [64, 3], zeros: [64, 3], scalesSource: [2, 64] });
    expect(shapes(row(on({ ...GPTQ, desc_act: true }, 2), 128, 64))).toMatchObject({ qweightSource: [8, 64], scalesSource: [4, 64], g_idxSource: [1, 64] });
    expect(shapes(column(on(AWQ, 2), 64))).toMatchObject({ weight: [32, 32], scales: [32, 2], zeros: [32, 2], qweightSource: [64, 4], qzerosSource: [2, 4] });
    expect(shapes(column(on(PACKED, 2), 20))).toMatchObject({ weight: [10, 32], scales: [10, 2], weight_packedSource: [10, 8] });
    expect(shapes(new ReplicatedLinear(on({ ...GPTQ, bits: 8 }, 2), { inputSize: 64, outputSize: 8, bias: false }, 'l'))).toMatchObject({ weight: [8, 64], qweightSource: [16, 8], qzerosSource: [2, 2] });
  });

  it('a head of its own is packed like any layer, padded on several ranks', () => {
    const head = (tp: number, quantization: object): LinearBase => new ParallelLMHead(on(quantization, tp), { numEmbeddings: 72, embeddingDim: 64 }, 'lm_head');
    expect(shapes(head(1, { ...GPTQ, lm_head: true }))).toMatchObject({ weight: [72, 32], qweightSource: [8, 72] });
    expect(shapes(head(2, { ...GPTQ, lm_head: true }))).toMatchObject({ weight: [64, 32], qzerosSource: [2, 8] });
    expect(shapes(head(1, GPTQ))).toEqual({ weight: [72, 64] });
  });
});

async function loadError(dir: string, code: Parameters<typeof expectCode>[0]): Promise<string> {
  const error = await expectCode(code, () => LLM.create({ model: dir, device: 'cpu', dtype: 'float32', numThreads: 1 }));
  expect(liveStorages().count).toBe(0);
  return error.message;
}

describeShared('loading fails with a useful message for', () => {
  it.each([
    ['babyllama-tok105-fp8', { ignored_layers: ['lm_head', 'o_proj'] }, ['ignored_layers', '"o_proj"', 'model.layers.0.self_attn.o_proj']],
    ['babyllama-tok105-fp8', { ignored_layers: ['model.layers.0.mlp.gate_proj'] }, ['model.layers.0.mlp.gate_up_proj', 'ignored_layers', 'up_proj: not listed']],
    ['babyllama-tok105-awq-int4-g32', { modules_to_not_convert: ['experts'] }, ['modules_to_not_convert', '"experts"']],
    ['babyllama-tok105-gptq-int4-g32', { dynamic: { '-:layers\\.0\\.': {} } }, ['dynamic', '-:layers']],
    ['babyllama-tok105-gptq-int4-g32', { modules_in_block_to_quantize: [['self_attn.q_proj']] }, ['qkv_proj', 'modules_in_block_to_quantize']],
  ] as const)('a wrong list: %s with %j', async (model, change, texts) => {
    const copy = new ModelCopy(sharedPath('models', model));
    try {
      copy.editJson('config.json', (json) => Object.assign(json.quantization_config as object, change));
      const message = await loadError(copy.dir, 'ERR_KVASIR_QUANTIZATION');
      for (const text of texts) expect(message).toContain(text);
    } finally {
      copy.remove();
    }
  });

  it('a list that leaves out layers which are quantized: missing and unexpected names in one error', async () => {
    const copy = new ModelCopy(sharedPath('models', 'babyllama-tok105-gptq-int4-g32'));
    try {
      copy.editJson('config.json', (json) => Object.assign(json.quantization_config as object, { dynamic: { '-:.*\\.4\\.mlp\\.down_proj': {} } }));
      const message = await loadError(copy.dir, 'ERR_KVASIR_WEIGHTS');
      for (const name of ['weight', 'qweight', 'qzeros', 'scales', 'g_idx']) expect(message).toContain(`model.layers.4.mlp.down_proj.${name}`);
      expect(message).toContain('1 missing');
      expect(message).toContain('4 that no parameter');
    } finally {
      copy.remove();
    }
  });

  it.each([
    ['babyllama-tok105-fp8', 'model.layers.1.self_attn.k_proj.weight_scale'],
    ['babyllama-tok105-awq-int4-g32', 'model.layers.2.mlp.up_proj.qzeros'],
    ['babyllama-tok105-gptq-int4-g32', 'model.layers.3.mlp.down_proj.scales'],
  ])('%s without %s', async (model, name) => {
    const copy = new ModelCopy(sharedPath('models', model));
    try {
      copy.editTensors((tensors) => delete tensors[name]);
      expect(await loadError(copy.dir, 'ERR_KVASIR_WEIGHTS')).toContain(`1 missing: ${name}`);
    } finally {
      copy.remove();
    }
  });

  it('a static scale of activations that is none', async () => {
    const copy = new ModelCopy(sharedPath('models', 'babyllama-tok105-fp8'));
    try {
      copy.editJson('config.json', (json) => Object.assign(json.quantization_config as object, { activation_scheme: 'static' }));
      copy.editTensors((tensors) => {
        for (const name of Object.keys(tensors).filter((key) => key.endsWith('weight_scale'))) tensors[name.replace('weight_scale', 'input_scale')] = floats([], Float32Array.of(0));
      });
      expect(await loadError(copy.dir, 'ERR_KVASIR_QUANTIZATION')).toContain('input_scale');
    } finally {
      copy.remove();
    }
  });

  const Q = 'model.layers.1.self_attn.q_proj';
  const setBias = (tensors: Record<string, unknown>, value: number): void => {
    for (const [id, size] of [['q', 128], ['k', 64], ['v', 64]] as const) tensors[Q.replace('q_proj', `${id}_proj.bias`)] = floats([size], new Float32Array(size).fill(value));
  };

  it.each([
    ['zero points although it is symmetric', {}, (t: Record<string, unknown>) => (t[`${Q}.qzeros`] = int32s([4, 16], new Int32Array(64).fill(0x77787777))), 'qzeros'],
    ['a bias that is not zero', {}, (t: Record<string, unknown>) => setBias(t, 0.5), 'bias'],
    ['parts with different orders of inputs', { desc_act: true }, (t: Record<string, unknown>) => (t[`${Q}.g_idx`] = int32s([128], Int32Array.from({ length: 128 }, (_, i) => i % 4))), 'different orders'],
    [
      'groups of different sizes',
      { desc_act: true },
      (t: Record<string, unknown>) => {
        for (const id of ['q', 'k', 'v']) t[Q.replace('q_proj', `${id}_proj.g_idx`)] = int32s([128], Int32Array.from({ length: 128 }, (_, i) => (i < 33 ? 0 : Math.floor(i / 32))));
      },
      'g_idx must place 32',
    ],
  ])('gptq: %s', async (_name, change, edit, text) => {
    const copy = new ModelCopy(sharedPath('models', 'babyllama-tok105-gptq-int4-g32'));
    try {
      copy.editJson('config.json', (json) => Object.assign(json.quantization_config as object, change));
      copy.editTensors((tensors) => void edit(tensors));
      const message = await loadError(copy.dir, 'ERR_KVASIR_QUANTIZATION');
      expect(message).toContain(text);
      expect(message).toContain('model.layers.1.self_attn.qkv_proj');
    } finally {
      copy.remove();
    }
  });

  it('not for a bias of zeros, which some tools write', async () => {
    const copy = new ModelCopy(sharedPath('models', 'babyllama-tok105-gptq-int4-g32'));
    try {
      copy.editTensors((tensors) => setBias(tensors, 0));
      await (await LLM.create({ model: copy.dir, device: 'cpu', dtype: 'float32', numThreads: 1 })).close();
      expect(liveStorages().count).toBe(0);
    } finally {
      copy.remove();
    }
  });
});

describeShared('dummy weights', () => {
  it.each([
    [{ quant_method: 'fp8', weight_block_size: [32, 32] }],
    [{ quant_method: 'fp8', activation_scheme: 'static' }],
    [{ quant_method: 'gptq', bits: 4, group_size: 32, desc_act: true }],
    [{ quant_method: 'gptq', bits: 8, group_size: 32 }],
    [{ quant_method: 'awq', bits: 4, group_size: 32 }],
    [PACKED],
    [packedInt({ num_bits: 8, type: 'int', strategy: 'channel' })],
    [{ quant_method: 'compressed-tensors', format: 'int-quantized', config_groups: { g: { targets: ['Linear'], weights: { num_bits: 8, type: 'int', strategy: 'channel' } } } }],
  ])('of a model with %j make tokens', async (config) => {
    const model = new QuantizedModel(config, () => gptq({ bits: 4, groupSize: 32 }), 1);
    try {
      for (const dtype of ['float32', 'bfloat16'] as const) {
        const llm = await LLM.create({ model: model.quantized.dir, device: 'cpu', dtype, loadFormat: 'dummy', numThreads: 1 });
        const [output] = await llm.generate([{ promptTokenIds: [1, 5, 9] }], { temperature: 0, maxTokens: 4, ignoreEos: true, promptLogprobs: 0 });
        await llm.close();
        expect(output!.outputs[0]!.tokenIds).toHaveLength(4);
        for (const entries of output!.promptLogprobs!.slice(1)) expect(Number.isFinite(entries![0]!.logprob)).toBe(true);
      }
      expect(liveStorages().count).toBe(0);
    } finally {
      model.remove();
    }
  });
});
