import { AutoWeightsLoader, checkAllLoaded, loadWeights } from '../../lib/nn/load-weights';
import { Module } from '../../lib/nn/module';
import { Parameter, type LoadedWeight, type WeightLoader } from '../../lib/nn/parameter';
import { WeightsMapper } from '../../lib/nn/weights-mapper';
import { Device } from '../../lib/tensor/device';
import { ArrayWeight } from '../fixtures/array-weight';
import { expectCode } from '../fixtures/expect-error';

const halves: WeightLoader = (param, loaded, shardId) => param.copyShard(loaded, 0, Number(shardId), 1);

class Inner extends Module {
  readonly calls: string[][] = [];
  readonly weight = new Parameter('inner.weight', [2], 'float32');
  readonly bias = new Parameter('inner.bias', [2], 'float32');

  loadWeights(weights: Iterable<LoadedWeight>): Set<string> {
    const list = [...weights];
    this.calls.push(list.map((w) => w.name));
    return loadWeights(this, list);
  }
}

class Outer extends Module {
  readonly inner = new Inner('inner');
  readonly norm = new Parameter('norm.weight', [2], 'float32');
  readonly stacked = new Parameter('ab.weight', [2, 2], 'float32', { weightLoader: halves });
}

let device: Device;
let model: Outer;

beforeEach(() => {
  device = Device.create('cpu', 1);
  model = new Outer('');
  for (const param of model.parameters()) param.allocate(device);
});

afterEach(async () => {
  for (const param of model.parameters()) param.dispose();
  await device.close();
});

const w = (name: string, shape: readonly number[] = [2]): ArrayWeight => ArrayWeight.counting(name, shape, 1);
const all = [w('inner.weight'), w('norm.weight'), w('inner.bias'), w('ab.weight', [2, 2])];
const wholeMatrix = new Parameter('unused', [1], 'float32').weightLoader;

describe('AutoWeightsLoader', () => {
  beforeEach(() => Object.assign(model.stacked, { weightLoader: wholeMatrix }));

  it('gives a module with a loadWeights of its own the weights below it, in runs as they come', () => {
    const loaded = new AutoWeightsLoader(model).loadWeights(all);
    expect(model.inner.calls).toEqual([['inner.weight'], ['inner.bias']]);
    expect([...loaded].sort()).toEqual(['ab.weight', 'inner.bias', 'inner.weight', 'norm.weight']);
  });

  it('reports what is missing and unexpected at every depth in one error', async () => {
    const error = await expectCode('ERR_KVASIR_WEIGHTS', () => new AutoWeightsLoader(model).loadWeights([w('inner.weight'), w('inner.other'), w('other')]));
    expect(error.message).toContain('3 missing: norm.weight, ab.weight, inner.bias');
    expect(error.message).toContain('2 that no parameter of the model expects: inner.other, other');
  });

  it('is usable again after an error', async () => {
    await expectCode('ERR_KVASIR_WEIGHTS', () => new AutoWeightsLoader(model).loadWeights([w('other')]));
    expect(new AutoWeightsLoader(model).loadWeights(all).size).toBe(4);
  });

  it('skips and ignores by prefix, substring and suffix', () => {
    const options = { skipPrefixes: ['vision.'], skipSubstrs: ['.lora_'], ignoreUnexpectedPrefixes: ['extra.'], ignoreUnexpectedSuffixes: ['.zero_point'] };
    const more = ['vision.x', 'norm.lora_a', 'extra.y', 'norm.zero_point', 'a.rotary_emb.inv_freq'].map((name) => w(name));
    expect(new AutoWeightsLoader(model, options).loadWeights([...all, ...more]).size).toBe(4);
  });

  it('ignores the bias that GPTQ adds to a layer, and no other', async () => {
    const gptq = new (class extends Module {
      readonly qweight = new Parameter('layer.qweight', [2], 'float32');
    })('');
    for (const param of gptq.parameters()) param.allocate(device);
    expect(loadWeights(gptq, [w('layer.qweight'), w('layer.bias')]).size).toBe(1);
    await expectCode('ERR_KVASIR_WEIGHTS', () => loadWeights(gptq, [w('elsewhere.bias')]));
    for (const param of gptq.parameters()) param.dispose();
  });
});

describe('stacked parameters of one\'s own', () => {
  const parts = [w('inner.weight'), w('inner.bias'), w('norm.weight'), w('b.weight', [1, 2]), w('a.weight', [1, 2])];

  it.each([
    ['a stackedParamsMapping', { stackedParamsMapping: [['ab.', 'a.', 0], ['ab.', 'b.', 1]] as const }],
    ['a mapper', { mapper: new WeightsMapper({ origToNewStacked: { 'a.': ['ab.', 0], 'b.': ['ab.', 1] } }) }],
  ])('come together by %s', async (_how, options) => {
    loadWeights(model, parts, options);
    expect(Array.from((await model.stacked.tensor.read()) as Float32Array)).toEqual([1, 2, 1, 2]);
  });

  it('may be given by hand, as in the loops of older models', async () => {
    const named = model.namedParameters();
    for (const weight of parts) {
      const shard = { 'a.weight': 0, 'b.weight': 1 }[weight.name];
      const param = named.get(shard === undefined ? weight.name : 'ab.weight')!;
      param.load(weight, shard ?? null);
    }
    expect(() => checkAllLoaded(model)).not.toThrow();
  });

  it('what such a loop left out is an error', async () => {
    const error = await expectCode('ERR_KVASIR_WEIGHTS', () => checkAllLoaded(model));
    expect(error.message).toContain('4 missing');
  });
});
