import { Attention } from '../../lib/layers/attention';
import { kvScaleParameters, pairScales } from '../../lib/layers/kv-scales';
import { Device, liveStorages } from '../../lib/tensor/device';
import type { KvScales } from '../../lib/ops/cache';
import { ArrayWeight } from '../fixtures/array-weight';
import { expectCode } from '../fixtures/expect-error';
import { makeVllmConfig, type VllmConfigParts } from '../fixtures/vllm-config';

const PREFIX = 'model.layers.3.self_attn.attn';
const FP8: VllmConfigParts = { cache: { kvCacheDtype: 'fp8' } };
const QUANTIZED: VllmConfigParts = { quantization: { name: 'fp8', getQuantMethod: () => null } };

let device: Device;
let warnings: jest.SpyInstance;

beforeEach(() => {
  device = Device.create('cpu', 1);
  warnings = jest.spyOn(process, 'emitWarning').mockImplementation();
});

afterEach(async () => {
  warnings.mockRestore();
  await device.close();
  expect(liveStorages().count).toBe(0);
});

/** Gives a layer what the checkpoint has of its scales, by the names that its parameters claim. */
async function loaded(layer: Attention, checkpoint: Readonly<Record<string, number>>, shape: readonly number[] = []): Promise<KvScales> {
  const params = [...layer.parameters()];
  try {
    for (const param of params) param.allocate(device);
    for (const [name, value] of Object.entries(checkpoint)) {
      const param = params.find(({ sources }) => sources.some((source) => source.name === name));
      expect([name, param?.isLoaded]).toEqual([name, true]); // optional
      param!.load(ArrayWeight.of(name, shape, Float32Array.of(value)), null);
    }
    await layer.processWeightsAfterLoading();
  } finally {
    for (const param of params) param.dispose();
    layer.kvCache.dispose();
  }
  expect([...layer.parameters()]).toEqual([]);
  return layer.scales;
}

const attention = (parts: VllmConfigParts, prefix = PREFIX): Attention => new Attention(makeVllmConfig(parts), { numHeads: 2, headDim: 4, scale: 1 }, prefix);

describe('scales of the KV cache', () => {
  it.each([
    ['attn.k_scale', 'attn.v_scale'],
    ['k_scale', 'v_scale'],
    ['k_proj.k_scale', 'v_proj.v_scale'],
    ['qkv_proj.k_scale', 'qkv_proj.v_scale'],
    ['k_proj.output_scale', 'v_proj.output_scale'],
    ['k_cache.scale', 'v_cache.scale'],
  ])('are found as %s and %s', async (k, v) => {
    const names = { [`model.layers.3.self_attn.${k}`]: 0.5, [`model.layers.3.self_attn.${v}`]: 0.25 };
    expect(await loaded(attention(FP8), names)).toEqual({ kScale: 0.5, vScale: 0.25 });
    expect(warnings).not.toHaveBeenCalled();
  });

  it('may be one for both, scalars or of one element', async () => {
    expect(await loaded(attention(FP8), { 'model.layers.3.self_attn.kv_scale': 0.5 })).toEqual({ kScale: 0.5, vScale: 0.5 });
    expect(await loaded(attention(FP8), { 'model.layers.3.self_attn.v_scale': 2 }, [1])).toEqual({ kScale: 2, vScale: 2 });
  });

  it('of queries and weights are read and not used', async () => {
    expect(await loaded(attention(FP8), { 'model.layers.3.self_attn.q_scale': 3, 'model.layers.3.self_attn.prob_output_scale': 4 })).toEqual({ kScale: 1, vScale: 1 });
  });

  it('below 0 stand for none', async () => {
    expect(await loaded(attention(FP8), { [`${PREFIX}.k_scale`]: -1, [`${PREFIX}.v_scale`]: -1 })).toEqual({ kScale: 1, vScale: 1 });
    expect(await loaded(attention(FP8), { [`${PREFIX}.k_scale`]: -1, [`${PREFIX}.v_scale`]: 0.125 })).toEqual({ kScale: 0.125, vScale: 0.125 });
    expect([pairScales(null, null), pairScales(1, null), pairScales(1, 2)]).toEqual([null, { kScale: 1, vScale: 1 }, { kScale: 1, vScale: 2 }]);
  });

  it.each([0, NaN, Infinity])('of %d are refused', async (value) => {
    const error = await expectCode('ERR_KVASIR_WEIGHTS', () => loaded(attention(FP8), { [`${PREFIX}.k_scale`]: value }));
    expect(error.message).toContain(`${PREFIX}.k_scale`);
  });

  it('of more than one element are refused', async () => {
    const layer = attention(FP8);
    const [k] = [...layer.parameters()];
    k!.allocate(device);
    const weight = ArrayWeight.counting(`${PREFIX}.k_scale`, [2]);
    await expectCode('ERR_KVASIR_WEIGHTS', () => k!.load(weight, null));
    await loaded(layer, {}).catch(() => undefined);
    k!.dispose();
  });

  it('are taken from a quantized checkpoint and left alone while the cache has the dtype of the model', async () => {
    const layer = attention(QUANTIZED);
    expect(layer.kvCache.dtype).toBe('float32');
    expect(await loaded(layer, { [`${PREFIX}.k_scale`]: 0.5 })).toEqual({ kScale: 1, vScale: 1 });
    expect(warnings).not.toHaveBeenCalled();
  });

  it('are no weights of a model that is not quantized', () => {
    const layer = attention({});
    expect([...layer.parameters()]).toEqual([]);
    layer.kvCache.dispose();
  });

  it('beside the layer are claimed only where it is the one attention of its parent', () => {
    const names = (prefix: string): string[] => {
      const parameters = Object.values(kvScaleParameters(prefix));
      for (const param of parameters) param.dispose();
      return parameters.flatMap(({ sources }) => sources.map(({ name }) => name));
    };
    expect(names('layers.0.cross_attn')).toEqual(['k', 'v', 'q', 'prob'].map((kind) => `layers.0.cross_attn.${kind}_scale`));
    const all = names('layers.0.attn');
    expect(all).toContain('layers.0.kv_scale');
    expect(new Set(all).size).toBe(all.length);
  });

  it('that are missing are said once for a model, and not of dummy weights', async () => {
    for (const [loadFormat, expected] of [['auto', 1], ['dummy', 0]] as const) {
      warnings.mockClear();
      const config = makeVllmConfig({ ...FP8, loadFormat });
      const layers = [0, 1, 2].map((i) => new Attention(config, { numHeads: 2, headDim: 4, scale: 1 }, `layers.${i}.attn`));
      for (const [i, layer] of layers.entries()) await loaded(layer, i === 1 ? { 'layers.1.k_scale': 2 } : {});
      expect(warnings).toHaveBeenCalledTimes(expected);
      if (expected) expect(warnings).toHaveBeenCalledWith(expect.stringContaining('no scales'), { code: 'KVASIR_KV_CACHE_SCALE' });
    }
  });
});
