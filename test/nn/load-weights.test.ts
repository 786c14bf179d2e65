import { loadWeights } from '../../lib/nn/load-weights';
import { fillDummy } from '../../lib/nn/dummy-weights';
import { Module } from '../../lib/nn/module';
import { ConstantBuffer, Parameter, type WeightLoader } from '../../lib/nn/parameter';
import { Device, liveStorages } from '../../lib/tensor/device';
import { inScope, TemporaryScope } from '../../lib/tensor/scope';
import { tensorTable } from '../../lib/tensor/table';
import { ArrayWeight } from '../fixtures/array-weight';
import { expectCode } from '../fixtures/expect-error';

const fusedLoader: WeightLoader = (param, loaded, shardId) => {
  if (shardId === null) return param.copyShard(loaded);
  param.copyShard(loaded, 0, shardId === 0 ? 0 : 1, 1);
};

class TwoLayers extends Module {
  readonly packed: string[] = [];
  readonly norm = new Parameter('norm.weight', [3], 'float32', { onLoaded: (p) => this.packed.push(p.name) });
  readonly fused = new Parameter('m.ab.weight', [2, 3], 'float32', {
    sources: [{ name: 'm.a.weight', shardId: 0 }, { name: 'm.b.weight', shardId: 1 }, { name: 'm.ab.weight', shardId: null }],
    weightLoader: fusedLoader,
    onLoaded: (p) => this.packed.push(p.name),
  });
}

let device: Device;
let model: TwoLayers;

beforeEach(() => {
  device = Device.create('cpu', 1);
  model = new TwoLayers('');
  for (const param of model.parameters()) param.allocate(device);
});

afterEach(async () => {
  for (const param of model.parameters()) param.dispose();
  await device.close();
  expect(liveStorages().count).toBe(0);
  expect(tensorTable().liveRows).toBe(0);
});

const weight = (name: string, shape: readonly number[] = [1, 3]): ArrayWeight => ArrayWeight.counting(name, shape, 1);
const all = [weight('m.b.weight'), weight('norm.weight', [3]), weight('m.a.weight')];

describe('loadWeights', () => {
  it('fills every parameter whatever the order, and runs onLoaded once when it is complete', async () => {
    loadWeights(model, all);
    expect(model.packed).toEqual(['norm.weight', 'm.ab.weight']);
    expect(Array.from((await model.fused.tensor.read()) as Float32Array)).toEqual([1, 2, 3, 1, 2, 3]);
    model.norm.finishLoading();
    expect(model.packed).toHaveLength(2);
  });

  it('lists everything that is missing and unexpected in one error', async () => {
    const error = await expectCode('ERR_KVASIR_WEIGHTS', () => loadWeights(model, [weight('m.b.weight'), weight('m.c.weight'), weight('extra')]));
    expect(error.message).toBe(
      'the checkpoint does not match the model; weights 2 missing: norm.weight, m.a.weight; 2 that no parameter of the model expects: m.c.weight, extra',
    );
  });

  it('names all parts of a fused parameter of which none came', async () => {
    const error = await expectCode('ERR_KVASIR_WEIGHTS', () => loadWeights(model, [weight('norm.weight', [3])]));
    expect(error.message).toContain('2 missing: m.a.weight, m.b.weight');
  });

  it('shows twenty names and how many more there are', async () => {
    const names = Array.from({ length: 25 }, (_, i) => weight(`extra.${i}`));
    const error = await expectCode('ERR_KVASIR_WEIGHTS', () => loadWeights(model, [...all, ...names]));
    expect(error.message).toContain('25 that no parameter');
    expect(error.message).toContain('extra.19, and 5 more');
    expect(error.message).not.toContain('extra.20');
  });

  it('renames, drops what the rename says, and names the checkpoint tensor in errors', async () => {
    const rename = (name: string): string | null => (name === 'copy' ? null : name.replace(/^transformer\./, ''));
    const prefixed = all.map((w) => weight(`transformer.${w.name}`, w.shape));
    loadWeights(model, [...prefixed, weight('copy')], { rename });
    const error = await expectCode('ERR_KVASIR_WEIGHTS', () => loadWeights(model, [weight('transformer.x')], { rename }));
    expect(error.message).toContain('expects: transformer.x');
  });

  it.each(['rotary_emb.inv_freq', 'model.layers.0.self_attn.rotary_emb.inv_freq', 'rotary_pos_emb.cos_cached', 'a.rotary_emb.sin_cached'])(
    'ignores the buffer %s of old checkpoints',
    (name) => {
      loadWeights(model, [weight(name), ...all]);
      expect(model.norm.isLoaded).toBe(true);
    },
  );

  it.each(['my_rotary_emb.inv_freq', 'rotary_emb.inv_freq.more', 'rotary_emb.weight'])('does not ignore %s', async (name) => {
    await expectCode('ERR_KVASIR_WEIGHTS', () => loadWeights(model, [weight(name), ...all]));
  });

  it.each([
    ['one part twice', [weight('m.a.weight'), weight('m.a.weight')]],
    ['parts, then the whole', [weight('m.a.weight'), weight('m.ab.weight', [2, 3])]],
    ['the whole, then a part', [weight('m.ab.weight', [2, 3]), weight('m.b.weight')]],
    ['one name twice', [weight('norm.weight', [3]), weight('norm.weight', [3])]],
  ])('refuses %s: it would not count as missing', async (_name, weights) => {
    await expectCode('ERR_KVASIR_WEIGHTS', () => loadWeights(model, weights));
  });
});

describe('parameters and buffers', () => {
  it('a parameter of integers does not take floats', async () => {
    const param = new Parameter('ids', [2], 'int32');
    param.allocate(device);
    const error = await expectCode('ERR_KVASIR_WEIGHTS', () => param.load(weight('ids', [2]), null));
    expect(error.message).toContain('ids holds float32, expected int32');
    param.dispose();
  });

  it('a parameter without dimensions holds one number', async () => {
    const scale = new Parameter('scale', [], 'float32');
    expect(scale.bytes).toBe(4);
    scale.allocate(device);
    scale.load(ArrayWeight.of('scale', [], Float32Array.of(2.5)), null);
    expect(Array.from((await scale.tensor.read()) as Float32Array)).toEqual([2.5]);
    expect(scale.isLoaded).toBe(true);
    scale.dispose();
  });

  it('padded rows are zero and not waited for', async () => {
    const param = new Parameter('w', [2, 2], 'float32', { paddedRows: 2 });
    expect(param.bytes).toBe(32);
    param.allocate(device);
    param.load(ArrayWeight.counting('w', [2, 2], 1), null);
    expect(Array.from((await param.tensor.read()) as Float32Array)).toEqual([1, 2, 3, 4, 0, 0, 0, 0]);
    param.dispose();
  });

  it('allocating twice keeps the memory', () => {
    const before = liveStorages().count;
    model.norm.allocate(device);
    expect(liveStorages().count).toBe(before);
  });

  it('a constant buffer writes its values when it gets memory', async () => {
    const buffer = new ConstantBuffer([2, 2], 'float32', () => Float32Array.of(1, 2, 3, 4));
    expect(buffer.bytes).toBe(16);
    buffer.allocate(device);
    expect(Array.from((await buffer.tensor.read()) as Float32Array)).toEqual([1, 2, 3, 4]);
    buffer.dispose();
  });

  it('dummy values are finite, the same for a seed, and bounded by the width', async () => {
    const scope = new TemporaryScope(device);
    const wide = [1, 1, 2].map(() => new Parameter('w', [4, 48], 'float32'));
    const bias = new Parameter('x.bias', [4], 'float32');
    inScope(scope, () => {
      [1, 1, 2].forEach((seed, i) => {
        wide[i]!.allocate(device);
        fillDummy(wide[i]!, seed);
      });
      bias.allocate(device);
      fillDummy(bias, 1);
      fillDummy(model.norm, 1);
    });
    const [a, b, c] = await Promise.all(wide.map(async (p) => Array.from((await p.tensor.read()) as Float32Array)));
    expect(a).toEqual(b);
    expect(a).not.toEqual(c);
    expect(a!.every((v) => Math.abs(v) <= Math.sqrt(3 / 48))).toBe(true);
    expect(new Set(a).size).toBeGreaterThan(100);
    expect(Array.from((await bias.tensor.read()) as Float32Array)).toEqual([0, 0, 0, 0]);
    expect(Array.from((await model.norm.tensor.read()) as Float32Array)).toEqual([1, 1, 1]);
    expect(wide[0]!.isLoaded).toBe(true);
    for (const param of [...wide, bias]) param.dispose();
    scope.dispose();
  });
});
