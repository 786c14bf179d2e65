import { Attention, attentionDims } from '../../lib/layers/attention';
import { gatedActivation } from '../../lib/layers/activation';
import { ColumnParallelLinear, ReplicatedLinear, RowParallelLinear } from '../../lib/layers/linear';
import type { LinearBase } from '../../lib/layers/linear-base';
import { MergedColumnParallelLinear, QKVParallelLinear } from '../../lib/layers/merged-linear';
import { fullPartNames } from '../../lib/layers/packed-names';
import { ParallelLMHead, VocabParallelEmbedding } from '../../lib/layers/vocab-embedding';
import type { Module } from '../../lib/nn/module';
import type { ShardId } from '../../lib/nn/parameter';
import { UnquantizedLinearMethod } from '../../lib/quantization/unquantized';
import type { LinearMethod, QuantizationConfig } from '../../lib/quantization/method';
import { Device, liveStorages } from '../../lib/tensor/device';
import { ArrayWeight } from '../fixtures/array-weight';
import { expectCode } from '../fixtures/expect-error';
import { makeVllmConfig } from '../fixtures/vllm-config';

const one = makeVllmConfig();
const on = (tensorParallelSize: number, tpRank = 0) => makeVllmConfig({ parallel: { tensorParallelSize, tpRank } });
const qkv = { hiddenSize: 8, headDim: 4, totalNumHeads: 4, totalNumKvHeads: 2, bias: false };
const merged = { inputSize: 8, outputSizes: [6, 4], bias: false };

describe('a layer is not built when', () => {
  it.each<[string, () => Module, string]>([
    ['output columns do not divide', () => new ColumnParallelLinear(on(4), { inputSize: 8, outputSize: 6 }, 'c'), 'c: output size over ranks: 6 is not divisible by 4'],
    ['one merged part does not divide', () => new MergedColumnParallelLinear(on(4), merged, 'm.gate_up_proj'), '6 is not divisible by 4'],
    ['query heads do not divide', () => new QKVParallelLinear(on(3), qkv, 'a.qkv_proj'), '4 is not divisible by 3'],
    ['KV heads do not divide', () => new QKVParallelLinear(on(2), { ...qkv, totalNumHeads: 6, totalNumKvHeads: 3 }, 'a.qkv_proj'), '3 is not divisible by 2'],
    ['ranks are no multiple of KV heads', () => new QKVParallelLinear(on(12), { ...qkv, totalNumHeads: 24, totalNumKvHeads: 8 }, 'a.qkv_proj'), '12 is not divisible by 8'],
    ['input columns do not divide', () => new RowParallelLinear(on(3), { inputSize: 8, outputSize: 6 }, 'r'), 'r: input size over ranks: 8 is not divisible by 3'],
    ['the padded vocabulary does not divide', () => new VocabParallelEmbedding(on(3), { numEmbeddings: 100, embeddingDim: 4 }, 'e'), 'padded vocabulary: 128 is not divisible by 3'],
    ['every rank would add the bias', () => new RowParallelLinear(one, { inputSize: 8, outputSize: 6, reduceResults: false }, 'r'), 'r: with reduceResults false a bias'],
    ['a fused layer has a name that is not in the table', () => new MergedColumnParallelLinear(one, merged, 'm.in_proj'), 'm.in_proj: expected partNames with the 2 names'],
    ['the number of part names is another', () => new MergedColumnParallelLinear(one, { ...merged, partNames: ['a'] }, 'm.x'), 'got a'],
    ['query heads are no multiple of KV heads', () => new Attention(one, { numHeads: 4, numKvHeads: 3, headDim: 4, scale: 1 }, 'a'), '4 heads are not a multiple of 3'],
  ])('%s', async (_name, make, message) => {
    const error = await expectCode('ERR_KVASIR_LAYER', make);
    expect(error.message).toContain(message);
  });

  it.each([
    ['skipBiasAdd', { skipBiasAdd: true }],
    ['no bias', { bias: false }],
  ])('but reduceResults: false goes with %s', (_name, options) => {
    const layer = new RowParallelLinear(one, { inputSize: 8, outputSize: 6, reduceResults: false, ...options }, 'r');
    expect(layer.weight!.shape).toEqual([6, 8]);
    for (const param of layer.parameters()) param.dispose();
  });

  it('the model has no quantization method for it', async () => {
    const none: QuantizationConfig = { name: 'half', getQuantMethod: ({ kind }) => (kind === 'linear' ? null : new UnquantizedLinearMethod()) };
    const config = makeVllmConfig({ quantization: none });
    const error = await expectCode('ERR_KVASIR_LAYER', () => new ReplicatedLinear(config, { inputSize: 8, outputSize: 6 }, 'model.router'));
    expect(error.message).toBe('quantization "half" has no method for the linear layer model.router');
    const head = new ParallelLMHead(config, { numEmbeddings: 64, embeddingDim: 8 }, 'h');
    for (const param of head.parameters()) param.dispose();
  });

  it('its quantization method cannot share the embedding', async () => {
    const createWeights: LinearMethod['createWeights'] = (spec) => new UnquantizedLinearMethod().createWeights(spec);
    const config = makeVllmConfig({ quantization: { name: 'q', getQuantMethod: () => ({ createWeights }) } satisfies QuantizationConfig });
    const sizes = { numEmbeddings: 64, embeddingDim: 8 };
    const tiedTo = new VocabParallelEmbedding(config, sizes, 'e');
    const error = await expectCode('ERR_KVASIR_LAYER', () => new ParallelLMHead(config, { ...sizes, tiedTo }, 'h'));
    expect(error.message).toContain('cannot share the weight e.weight');
    tiedTo.weight.dispose();
  });
});

describe('a checkpoint tensor is refused when', () => {
  let device: Device;
  beforeAll(() => void (device = Device.create('cpu', 1)));
  afterAll(async () => {
    await device.close();
    expect(liveStorages().count).toBe(0);
  });

  const column = () => new ColumnParallelLinear(on(2, 1), { inputSize: 8, outputSize: 6 }, 'l');
  const row = () => new RowParallelLinear(on(2, 1), { inputSize: 8, outputSize: 6 }, 'l');
  const gateUp = () => new MergedColumnParallelLinear(on(2), { ...merged, partNames: ['g', 'u'] }, 'l');
  const attention = () => new QKVParallelLinear(on(2), qkv, 'qkv_proj');
  const replicated = () => new ReplicatedLinear(one, { inputSize: 8, outputSize: 6 }, 'l');
  const vocabulary = () => new VocabParallelEmbedding(one, { numEmbeddings: 70, embeddingDim: 8 }, 'l') as unknown as LinearBase;

  it.each<[string, () => LinearBase, readonly number[], ShardId]>([
    ['column: fewer rows', column, [5, 8], null],
    ['column: more rows', column, [7, 8], null],
    ['column: other width', column, [6, 7], null],
    ['column: another rank', column, [6], null],
    ['row: fewer columns', row, [6, 7], null],
    ['row: more columns', row, [6, 9], null],
    ['row: other height', row, [5, 8], null],
    ['merged: fewer rows of a part', gateUp, [5, 8], 0],
    ['merged: more rows of a part', gateUp, [6, 8], 1],
    ['merged: other rows when fused on disk', gateUp, [12, 8], null],
    ['merged: other width when fused on disk', gateUp, [10, 9], null],
    ['qkv: more query rows', attention, [20, 8], 'q'],
    ['qkv: fewer value rows', attention, [4, 8], 'v'],
    ['qkv: other rows when fused on disk', attention, [33, 8], null],
    ['replicated: other shape', replicated, [8, 6], null],
    ['vocabulary: more rows', vocabulary, [71, 8], null],
    ['vocabulary: fewer rows', vocabulary, [69, 8], null],
    ['vocabulary: other width', vocabulary, [70, 9], null],
  ])('%s', async (_name, make, shape, shardId) => {
    const layer = make();
    const weight = layer.weight!;
    weight.allocate(device);
    const error = await expectCode('ERR_KVASIR_WEIGHTS', () => weight.load(ArrayWeight.counting('ckpt.w', shape), shardId));
    expect(error.message).toContain('ckpt.w has');
    expect(error.message).toContain('expected');
    expect(weight.isLoaded).toBe(false);
    for (const param of layer.parameters()) param.dispose();
  });

  it.each<[string, () => LinearBase, ShardId]>([
    ['merged: a part that does not exist', gateUp, 2],
    ['merged: a negative part', gateUp, -1],
    ['merged: a letter', gateUp, 'q'],
    ['qkv: a number', attention, 0],
    ['qkv: another letter', attention, 'o' as ShardId],
  ])('its shard id is wrong; %s', async (_name, make, shardId) => {
    const layer = make();
    layer.weight!.allocate(device);
    await expectCode('ERR_KVASIR_LAYER', () => layer.weight!.load(ArrayWeight.counting('w', [6, 8]), shardId));
    for (const param of layer.parameters()) param.dispose();
  });
});

describe('attention layers', () => {
  it('register under their prefix, which must be unique', async () => {
    const config = makeVllmConfig();
    const options = { numHeads: 4, numKvHeads: 2, headDim: 4, scale: 0.5 };
    const layer = new Attention(config, options, 'model.layers.0.self_attn.attn');
    expect(config.staticForwardContext.get('model.layers.0.self_attn.attn')).toBe(layer);
    const error = await expectCode('ERR_KVASIR_LAYER', () => new Attention(config, options, 'model.layers.0.self_attn.attn'));
    expect(error.message).toContain('"model.layers.0.self_attn.attn"');
    expect(config.staticForwardContext.size).toBe(1);
    layer.kvCache.dispose();
  });

  it.each(['', '.model.layers.0.attn', 'model..attn', 'model.attn.'])('need a full name: not %p', async (prefix) => {
    const config = makeVllmConfig();
    const error = await expectCode('ERR_KVASIR_LAYER', () => new Attention(config, { numHeads: 1, headDim: 4, scale: 1 }, prefix));
    expect(error.message).toContain(JSON.stringify(prefix));
    expect(config.staticForwardContext.size).toBe(0);
  });

  it.each([
    [undefined, 128, 128],
    [null, 128, null],
    [32, 128, 32],
    [undefined, null, null],
    [32, null, 32],
  ])('window: per layer %p, of the model %p: %p', (perLayerSlidingWindow, slidingWindow, expected) => {
    const config = makeVllmConfig({ model: { slidingWindow } });
    const layer = new Attention(config, { numHeads: 4, headDim: 4, scale: 1, perLayerSlidingWindow }, 'a');
    expect(layer).toMatchObject({ slidingWindow: expected, numKvHeads: 4, layerName: 'a' });
    layer.kvCache.dispose();
  });

  it('dims are those of one rank, sizes of the projections those of the model', () => {
    expect(attentionDims(on(4))).toEqual({
      hiddenSize: 16,
      headDim: 4,
      totalNumHeads: 4,
      totalNumKvHeads: 2,
      numHeads: 1,
      numKvHeads: 1,
      qkvSizes: [4, 4, 4],
      scale: 0.5,
    });
  });

  it('run inside a forward pass only', async () => {
    const layer = new Attention(makeVllmConfig(), { numHeads: 4, headDim: 4, scale: 1 }, 'a');
    await expectCode('ERR_KVASIR_PLAN', () => layer.forward(layer.kvCache, layer.kvCache, layer.kvCache));
    layer.kvCache.dispose();
  });
});

describe('names', () => {
  it.each(['m.constructor', 'toString', 'a.b.hasOwnProperty'])('%s is no fused layer', async (prefix) => {
    await expectCode('ERR_KVASIR_LAYER', () => fullPartNames(prefix, 1, undefined));
  });

  it('parts at the root have no dot in front, others lie beside the layer', () => {
    expect(fullPartNames('gate_up_proj', 2, undefined)).toEqual(['gate_proj', 'up_proj']);
    expect(fullPartNames('m.x', 2, ['a', 'b'])).toEqual(['m.a', 'm.b']);
  });

  it('an activation of config.json that is not known is named with those that are', async () => {
    for (const name of ['relu2', 'constructor']) {
      const error = await expectCode('ERR_KVASIR_UNSUPPORTED', () => gatedActivation(name));
      expect(error.message).toContain(`"${name}"`);
    }
  });
});
