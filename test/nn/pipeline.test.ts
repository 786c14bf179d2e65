import { loadWeights } from '../../lib/nn/load-weights';
import { makeLayers, Module } from '../../lib/nn/module';
import { Parameter } from '../../lib/nn/parameter';
import { getPpIndices, makeStageLayers, PPMissingLayer, type PipelineStage } from '../../lib/nn/pipeline';
import { Device } from '../../lib/tensor/device';
import { ArrayWeight } from '../fixtures/array-weight';
import { expectCode } from '../fixtures/expect-error';

const split = (numLayers: number, size: number): [number, number][] => Array.from({ length: size }, (_, rank) => getPpIndices(numLayers, rank, size));

describe('getPpIndices', () => {
  it.each<[number, number, readonly number[]]>([
    [8, 1, [8]],
    [8, 2, [4, 4]],
    [9, 2, [5, 4]],
    [10, 4, [2, 3, 3, 2]],
    [11, 4, [3, 3, 3, 2]],
    [4, 4, [1, 1, 1, 1]],
  ])('%d layers over %d stages: %j', (numLayers, size, sizes) => {
    const parts = split(numLayers, size);
    expect(parts.map(([start, end]) => end - start)).toEqual(sizes);
    expect(parts.map(([start]) => start)).toEqual([0, ...parts.slice(0, -1).map(([, end]) => end)]);
    expect(parts.at(-1)![1]).toBe(numLayers);
  });

  it.each([
    [4, 4, 4],
    [4, -1, 2],
    [4, 0, 5],
    [4, 0.5, 2],
  ])('%d layers, stage %d of %d: refused', (numLayers, rank, size) => expectCode('ERR_KVASIR_LAYER', () => getPpIndices(numLayers, rank, size)).then((e) => expect(e.message).toContain(`of ${size}`)));
});

class Leaf extends Module {
  readonly weight = new Parameter(`${this.prefix}.weight`, [1], 'float32');
}

class Tree extends Module {
  readonly layers: Module[];

  constructor(stage: PipelineStage) {
    super('');
    this.layers = makeStageLayers(3, (prefix) => new Leaf(prefix), 'layers', stage).layers;
  }
}

describe('makeStageLayers', () => {
  it('gives every stage its layers under the names that they have in one piece', () => {
    const whole = makeLayers(5, (prefix) => new Leaf(prefix), 'model.layers').map((layer) => layer.prefix);
    const stages = [0, 1].map((rank) => makeStageLayers(5, (prefix) => new Leaf(prefix), 'model.layers', { rank, size: 2 }));
    for (const { layers, start, end } of stages) {
      expect(layers.map((layer) => layer.prefix)).toEqual(whole);
      layers.forEach((layer, i) => expect(layer).toBeInstanceOf(i >= start && i < end ? Leaf : PPMissingLayer));
    }
    expect(stages.flatMap(({ layers, start, end }) => layers.slice(start, end).map((layer) => layer.prefix))).toEqual(whole);
  });

  it('a layer that is elsewhere hands on what it gets', () => expect(new PPMissingLayer('layers.0').forward('x')).toBe('x'));

  it('the weights of layers that are elsewhere are passed over, others are still an error', async () => {
    const device = Device.create('cpu', 1);
    const tree = new Tree({ rank: 1, size: 2 });
    try {
      for (const param of tree.parameters()) param.allocate(device);
      const weights = ['layers.0.weight', 'layers.1.weight', 'layers.2.weight'].map((name) => ArrayWeight.counting(name, [1], 5));
      expect(loadWeights(tree, weights)).toEqual(new Set(['layers.2.weight']));
      const error = await expectCode('ERR_KVASIR_WEIGHTS', () => loadWeights(tree, [ArrayWeight.counting('layers.3.weight', [1], 5)]));
      expect(error.message).toContain('layers.3.weight');
    } finally {
      for (const param of tree.parameters()) param.dispose();
      await device.close();
    }
  });
});
