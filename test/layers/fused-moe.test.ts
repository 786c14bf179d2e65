import { setTensorParallelGroup } from '../../lib/distributed/communicator';
import type { VllmConfig } from '../../lib/config/vllm';
import { FusedMoE, type FusedMoEOptions } from '../../lib/layers/fused-moe';
import { Qwen3MoeDecoderLayer } from '../../lib/models/qwen3-moe';
import { loadWeights } from '../../lib/nn/load-weights';
import { resolveModelClass } from '../../lib/models/registry';
import { Device, liveStorages } from '../../lib/tensor/device';
import { inScope, TemporaryScope } from '../../lib/tensor/scope';
import { tensorTable } from '../../lib/tensor/table';
import type { Tensor } from '../../lib/tensor/tensor';
import { Workspace } from '../../lib/tensor/workspace';
import { ArrayWeight } from '../fixtures/array-weight';
import { expectCode } from '../fixtures/expect-error';
import { makeVllmConfig } from '../fixtures/vllm-config';

let device: Device;
let scope: TemporaryScope;
const layers: FusedMoE[] = [];

beforeEach(() => {
  device = Device.create('cpu', 1);
  scope = new TemporaryScope(device);
});

afterEach(async () => {
  for (const layer of layers.splice(0)) for (const param of layer.parameters()) param.dispose();
  scope.dispose();
  await device.close();
  expect(liveStorages().count).toBe(0);
  expect(tensorTable().liveRows).toBe(0);
});

/** 24 is no multiple of 64: every expert's weight gets padding rows. */
const SIZES = { numExperts: 5, topK: 2, hiddenSize: 12, intermediateSize: 24 };
const NAMES = ['gate_proj', 'up_proj', 'down_proj'] as const;

const waves = (name: string, shape: readonly number[], seed: number): ArrayWeight =>
  ArrayWeight.of(name, shape, Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => Math.sin(seed + 1.7 * i) / 4));

function checkpoint(names: readonly [string, string, string] = NAMES): ArrayWeight[] {
  const { numExperts, hiddenSize: h, intermediateSize: size } = SIZES;
  return Array.from({ length: numExperts }, (_, e) => [
    waves(`moe.${e}.${names[0]}.weight`, [size, h], 3 * e),
    waves(`moe.${e}.${names[1]}.weight`, [size, h], 3 * e + 1),
    waves(`moe.${e}.${names[2]}.weight`, [h, size], 3 * e + 2),
  ]).flat();
}

function loaded(config: VllmConfig, options: Partial<FusedMoEOptions>, weights: readonly ArrayWeight[]): FusedMoE {
  const layer = new FusedMoE(config, { ...SIZES, ...options }, 'moe');
  layers.push(layer);
  for (const param of layer.parameters()) param.allocate(device);
  inScope(scope, () => loadWeights(layer, weights));
  return layer;
}

function input(weight: ArrayWeight): Tensor {
  const x = scope.allocate(weight.shape, 'float32');
  x.write(weight.toArray());
  return x;
}

/** Every token through its experts one by one, in float64. */
function reference(x: ArrayWeight, logits: ArrayWeight, renormalize: boolean): number[] {
  const { numExperts, topK, hiddenSize: h, intermediateSize: size } = SIZES;
  const weights = checkpoint().map((w) => w.toArray());
  const [xs, ls] = [x.toArray(), logits.toArray()];
  return Array.from({ length: x.shape[0]! }, (_, t) => {
    const own = Array.from(ls.subarray(t * numExperts, (t + 1) * numExperts), Math.exp);
    const chosen = own.map((_, e) => e).sort((a, b) => own[b]! - own[a]!).slice(0, topK);
    const total = (renormalize ? chosen : own.map((_, e) => e)).reduce((sum, e) => sum + own[e]!, 0);
    const out = new Array<number>(h).fill(0);
    for (const e of chosen) {
      const [gate, up, down] = weights.slice(3 * e) as [Float32Array, Float32Array, Float32Array];
      const dot = (w: Float32Array, i: number): number => Array.from({ length: h }, (_, k) => xs[t * h + k]! * w[i * h + k]!).reduce((a, b) => a + b, 0);
      const inner = Array.from({ length: size }, (_, i) => (dot(gate, i) / (1 + Math.exp(-dot(gate, i)))) * dot(up, i));
      for (let o = 0; o < h; o++) out[o]! += (own[e]! / total) * inner.reduce((sum, v, i) => sum + v * down[o * size + i]!, 0);
    }
    return out;
  }).flat();
}

const X = waves('x', [7, SIZES.hiddenSize], 40);
const LOGITS = waves('logits', [7, SIZES.numExperts], 50);

async function expectOutput(out: Tensor, expected: readonly number[]): Promise<void> {
  const actual = (await out.read()) as Float32Array;
  expect(actual).toHaveLength(expected.length);
  expected.forEach((value, i) => expect(actual[i]).toBeCloseTo(value, 5));
}

describe('FusedMoE', () => {
  it.each([true, false])('sends each token through its experts (renormalize %s)', async (renormalize) => {
    const layer = loaded(makeVllmConfig(), { renormalize }, checkpoint());
    await expectOutput(inScope(scope, () => layer.forward(input(X), input(LOGITS))), reference(X, LOGITS, renormalize));
  });

  it('takes the names that a model has for the projections', async () => {
    const layer = loaded(makeVllmConfig(), { projNames: ['w1', 'w3', 'w2'] }, checkpoint(['w1', 'w3', 'w2']));
    await expectOutput(inScope(scope, () => layer.forward(input(X), input(LOGITS))), reference(X, LOGITS, true));
  });

  it.each([2, 4])('on %i ranks the partial outputs sum to the whole', async (tp) => {
    const parts: Tensor[] = [];
    for (let tpRank = 0; tpRank < tp; tpRank++) {
      const config = makeVllmConfig({ parallel: { tensorParallelSize: tp, tpRank } });
      setTensorParallelGroup(config.parallel, { rank: tpRank, size: tp, allReduce: (x) => (parts.push(x), x), allGather: (x) => x });
      const layer = loaded(config, {}, checkpoint());
      expect([layer.w13.shape, layer.w2.shape]).toEqual([[5, 48 / tp, 12], [5, 12, 24 / tp]]);
      inScope(scope, () => layer.forward(input(X), input(LOGITS)));
    }
    const values = await Promise.all(parts.map((part) => part.read() as Promise<Float32Array>));
    const sum = Array.from(values[0]!, (_, i) => values.reduce((total, part) => total + part[i]!, 0));
    expect(values).toHaveLength(tp);
    reference(X, LOGITS, true).forEach((value, i) => expect(sum[i]).toBeCloseTo(value, 5));
  });

  it('runs in a plan for a larger batch', async () => {
    const layer = loaded(makeVllmConfig(), {}, checkpoint());
    const [most, mostLogits] = [scope.allocate([300, 12], 'float32'), scope.allocate([300, 5], 'float32')];
    const workspace = new Workspace();
    workspace.plan(() => [layer.forward(most, mostLogits)]);
    workspace.materialize(device);
    await expectOutput(workspace.run(() => layer.forward(input(X), input(LOGITS))), reference(X, LOGITS, true));
    workspace.dispose();
  });
});

describe('errors of FusedMoE', () => {
  it('lists the experts that the checkpoint lacks', async () => {
    const error = await expectCode('ERR_KVASIR_WEIGHTS', () => loaded(makeVllmConfig(), {}, checkpoint().slice(1)));
    expect(error.message).toContain('moe.0.gate_proj.weight');
  });

  it('refuses a projection of another size', async () => {
    const other = [waves('moe.0.gate_proj.weight', [25, 12], 0), ...checkpoint().slice(1)];
    expect((await expectCode('ERR_KVASIR_WEIGHTS', () => loaded(makeVllmConfig(), {}, other))).message).toContain('moe.0.gate_proj.weight has shape [25, 12]');
  });

  it('refuses sizes that do not fit', async () => {
    const make = (options: Partial<FusedMoEOptions>, tp = 1) => () =>
      new FusedMoE(makeVllmConfig({ parallel: { tensorParallelSize: tp } }), { ...SIZES, ...options }, 'moe');
    await expectCode('ERR_KVASIR_LAYER', make({ topK: 6 }));
    await expectCode('ERR_KVASIR_LAYER', make({ topK: 0 }));
    await expectCode('ERR_KVASIR_LAYER', make({}, 5));
  });

  it('names the layer when its experts are quantized', async () => {
    const quantization = { name: 'four-bit', getQuantMethod: () => null };
    const error = await expectCode('ERR_KVASIR_UNSUPPORTED', () => new FusedMoE(makeVllmConfig({ quantization }), SIZES, 'model.layers.3.mlp.experts'));
    expect(error.message).toContain('model.layers.3.mlp.experts');
    expect(error.message).toContain('four-bit');
  });
});

describe('Qwen3MoeForCausalLM', () => {
  const hf = { num_experts: 4, num_experts_per_tok: 2, moe_intermediate_size: 8, decoder_sparse_step: 2, mlp_only_layers: [3] };

  function moeLayers(fields: Readonly<Record<string, unknown>>): number[] {
    const config = makeVllmConfig({ model: { numHiddenLayers: 6 }, hf: { ...hf, ...fields } });
    const model = new (resolveModelClass(['Qwen3MoeForCausalLM']))(config, '');
    const names = [...model.parameters()].map((param) => param.name);
    for (const param of model.parameters()) param.dispose();
    for (const buffer of model.buffers()) buffer.dispose();
    for (const layer of config.staticForwardContext.values()) (layer as unknown as { kvCache: Tensor }).kvCache.dispose();
    return names.flatMap((name) => /^model\.layers\.(\d+)\.mlp\.experts\.w2_weight$/.exec(name)?.slice(1).map(Number) ?? []);
  }

  it.each([
    [{}, [1, 5]],
    [{ decoder_sparse_step: 1 }, [0, 1, 2, 4, 5]],
    [{ decoder_sparse_step: 1, mlp_only_layers: [] }, [0, 1, 2, 3, 4, 5]],
    [{ num_experts: 0 }, []],
  ])('with %p has experts in layers %p', (fields, expected) => {
    expect(moeLayers(fields)).toEqual(expected);
  });

  it('refuses mlp_only_layers that are no layer numbers', async () => {
    const config = makeVllmConfig({ hf: { ...hf, mlp_only_layers: ['1'] } });
    await expectCode('ERR_KVASIR_MODEL_CONFIG', () => new Qwen3MoeDecoderLayer(config, 'model.layers.1'));
  });
});
