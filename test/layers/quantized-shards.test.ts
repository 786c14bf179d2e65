import fc from 'fast-check';
import type { VllmConfig } from '../../lib/config/vllm';
import type { LinearBase } from '../../lib/layers/linear-base';
import { ColumnParallelLinear, ReplicatedLinear, RowParallelLinear } from '../../lib/layers/linear';
import { MergedColumnParallelLinear, QKVParallelLinear } from '../../lib/layers/merged-linear';
import { inUnits } from '../../lib/layers/shard';
import { ParallelLMHead } from '../../lib/layers/vocab-embedding';
import { loadWeights } from '../../lib/nn/load-weights';
import { Parameter } from '../../lib/nn/parameter';
import type { LinearWeightSpec, ParameterLayout, QuantizationConfig } from '../../lib/quantization/method';
import { Device, liveStorages } from '../../lib/tensor/device';
import { tensorTable } from '../../lib/tensor/table';
import type { Tensor } from '../../lib/tensor/tensor';
import { ArrayWeight } from '../fixtures/array-weight';
import { expectCode } from '../fixtures/expect-error';
import { makeVllmConfig } from '../fixtures/vllm-config';

const UNIT = 16;

/** Everything that a format may keep for a weight [out, in]; the plain weight says where each of its elements came from. */
const LAYOUTS: Readonly<Record<string, ParameterLayout>> = {
  weight: { outputDim: 0, inputDim: 1 },
  packedOutputs: { inputDim: 0, outputDim: 1, outputUnit: 8 },
  packedInputs: { inputDim: 0, inputUnit: 8, outputDim: 1 },
  groupScales: { inputDim: 0, inputUnit: UNIT, outputDim: 1 },
  blockScales: { outputDim: 0, outputUnit: UNIT, inputDim: 1, inputUnit: UNIT },
  channelScales: { outputDim: 0 },
};

/** Elements along both dimensions of a tensor of this layout, as [dimension 0, dimension 1]. */
function shapeOf({ outputDim, outputUnit = 1, inputDim, inputUnit = 1 }: ParameterLayout, outputs: number, inputs: number): number[] {
  const shape = [1, 1];
  if (outputDim !== undefined) shape[outputDim] = Math.ceil(outputs / outputUnit);
  if (inputDim !== undefined) shape[inputDim] = Math.ceil(inputs / inputUnit);
  return shape;
}

const withParams = (make: (spec: LinearWeightSpec) => Record<string, Parameter>): QuantizationConfig => ({
  name: 'test',
  getQuantMethod: () => ({ createWeights: (spec) => ({ tensors: make(spec), apply: (x: Tensor) => x }) }),
});

const everything = withParams((spec) => {
  const rows = spec.outputPartitionSizes.reduce((a, b) => a + b, 0);
  const entries = Object.entries(LAYOUTS).map(([name, layout]) => {
    const shape = shapeOf(layout, rows, spec.inputSizePerPartition);
    return [name, new Parameter(`${spec.prefix}.${name}`, shape, 'float32', { sources: spec.sources(name), weightLoader: spec.loader(layout) })];
  });
  return Object.fromEntries(entries);
});

let device: Device;
beforeAll(() => void (device = Device.create('cpu', 1)));
afterAll(async () => {
  await device.close();
  expect(liveStorages().count).toBe(0);
  expect(tensorTable().liveRows).toBe(0);
});

type Values = Record<string, { shape: readonly number[]; data: Float32Array }>;

async function load(layer: LinearBase, checkpoint: readonly ArrayWeight[]): Promise<Values> {
  for (const param of layer.parameters()) param.allocate(device);
  loadWeights(layer, checkpoint);
  const params = Object.entries(layer.params);
  const values = await Promise.all(params.map(async ([name, param]) => [name, { shape: param.shape, data: (await param.tensor.read()) as Float32Array }] as const));
  for (const param of layer.parameters()) param.dispose();
  return Object.fromEntries(values);
}

interface Part {
  readonly name: string;
  readonly outputs: number;
}

/** All tensors of every part; element numbers are unique over the parts. With `fused`, those of the parts in one. */
function checkpointOf(parts: readonly Part[], inputs: number, fused: string | null): ArrayWeight[] {
  return Object.entries(LAYOUTS).flatMap(([tensor, layout]) => {
    const tensors = parts.map(({ name, outputs }, i) => ArrayWeight.counting(`${name}.${tensor}`, shapeOf(layout, outputs, inputs), i * 100_000));
    return fused === null ? tensors : [joined(`${fused}.${tensor}`, tensors, layout.outputDim!)];
  });
}

function joined(name: string, parts: readonly ArrayWeight[], dim: number): ArrayWeight {
  const other = parts[0]!.shape[1 - dim]!;
  if (dim === 0) return ArrayWeight.of(name, [parts.reduce((sum, p) => sum + p.shape[0]!, 0), other], Float32Array.from(parts.flatMap((p) => Array.from(p.toArray()))));
  const rows = Array.from({ length: other }, (_, r) => parts.flatMap((p) => Array.from(p.narrow(0, r, 1).toArray())));
  return ArrayWeight.of(name, [other, rows[0]!.length], Float32Array.from(rows.flat()));
}

/**
 * Each rank's tensors agree with its plain weight about what it holds: the element that stands for local row r and column c is
 * that of the global row and column whose weight lies there. Returns the global elements of the weight on this rank.
 */
function checkRank(values: Values, parts: readonly Part[], inputs: number, paddedFrom = Infinity): number[] {
  const { shape, data } = values.weight!;
  const [rows, columns] = shape as [number, number];
  for (const [name, layout] of Object.entries(LAYOUTS)) {
    const { outputDim, outputUnit = 1, inputDim, inputUnit = 1 } = layout;
    const local = values[name]!;
    for (let r = 0; r < Math.min(rows, paddedFrom); r += 3)
      for (let c = 0; c < columns; c += 3) {
        const origin = data[r * columns + c]!;
        const part = Math.floor(origin / 100_000);
        const [output, input] = [Math.floor((origin % 100_000) / inputs), (origin % 100_000) % inputs];
        const at = (tensorShape: readonly number[], o: number, i: number): number => {
          const index = [0, 0];
          if (outputDim !== undefined) index[outputDim] = Math.floor(o / outputUnit);
          if (inputDim !== undefined) index[inputDim] = Math.floor(i / inputUnit);
          return index[0]! * tensorShape[1]! + index[1]!;
        };
        const expected = part * 100_000 + at(shapeOf(layout, parts[part]!.outputs, inputs), output, input);
        if (local.data[at(local.shape, r, c)] !== expected) expect([name, r, c, local.data[at(local.shape, r, c)]]).toEqual([name, r, c, expected]);
      }
  }
  return Array.from(data.subarray(0, Math.min(rows, paddedFrom) * columns));
}

const tpSizes = fc.constantFrom(1, 2, 4, 8);
const check = (property: fc.IAsyncProperty<unknown>): Promise<void> => fc.assert(property as fc.IAsyncProperty<[unknown]>, { numRuns: 15 });
const configOf = (tensorParallelSize: number, tpRank: number): VllmConfig => makeVllmConfig({ parallel: { tensorParallelSize, tpRank }, quantization: everything });

/** Checks all ranks; together they hold every element of the checkpoint's weights, `replicas` times where heads are replicated. */
async function checkRanks(tp: number, make: (config: VllmConfig) => LinearBase, parts: readonly Part[], inputs: number, fused: string | null = null): Promise<void> {
  const checkpoint = checkpointOf(parts, inputs, fused);
  const held = new Set<number>();
  for (let rank = 0; rank < tp; rank++) for (const element of checkRank(await load(make(configOf(tp, rank)), checkpoint), parts, inputs)) held.add(element);
  expect(held.size).toBe(parts.reduce((sum, { outputs }) => sum + outputs * inputs, 0));
}

describe('packed weights, group scales and block scales are cut where the weight is cut', () => {
  it('ReplicatedLinear, with blocks that are cut short by the ends', () =>
    checkRanks(1, (c) => new ReplicatedLinear(c, { inputSize: 24, outputSize: 40, bias: false }, 'l'), [{ name: 'l', outputs: 40 }], 24));

  it('ColumnParallelLinear', () =>
    check(
      fc.asyncProperty(tpSizes, fc.integer({ min: 1, max: 2 }), fc.constantFrom(8, 32), (tp, perRank, inputSize) => {
        const outputSize = perRank * tp * UNIT;
        return checkRanks(tp, (c) => new ColumnParallelLinear(c, { inputSize, outputSize, bias: false }, 'l'), [{ name: 'l', outputs: outputSize }], inputSize);
      }),
    ));

  it('RowParallelLinear', () =>
    check(
      fc.asyncProperty(tpSizes, fc.integer({ min: 1, max: 2 }), fc.constantFrom(8, 40), (tp, perRank, outputSize) => {
        const inputSize = perRank * tp * UNIT;
        return checkRanks(tp, (c) => new RowParallelLinear(c, { inputSize, outputSize, bias: false }, 'l'), [{ name: 'l', outputs: outputSize }], inputSize);
      }),
    ));

  it('MergedColumnParallelLinear, from parts or fused on disk', () =>
    check(
      fc.asyncProperty(tpSizes, fc.array(fc.integer({ min: 1, max: 2 }), { minLength: 2, maxLength: 3 }), fc.boolean(), (tp, perRank, fused) => {
        const parts = perRank.map((n, i) => ({ name: `m.part${i}`, outputs: n * tp * UNIT }));
        const options = { inputSize: 24, outputSizes: parts.map((p) => p.outputs), partNames: parts.map((_, i) => `part${i}`), bias: false };
        return checkRanks(tp, (c) => new MergedColumnParallelLinear(c, options, 'm.l'), parts, 24, fused ? 'm.l' : null);
      }),
    ));

  it('QKVParallelLinear, with KV heads cut or replicated', () =>
    check(
      fc.asyncProperty(tpSizes, fc.constantFrom([8, 8], [8, 2], [16, 4], [8, 1]), fc.boolean(), (tp, [heads, kvHeads], fused) => {
        const parts = [heads!, kvHeads!, kvHeads!].map((n, i) => ({ name: `a.${'qkv'[i]}_proj`, outputs: n * UNIT }));
        const options = { hiddenSize: 24, headDim: UNIT, totalNumHeads: heads!, totalNumKvHeads: kvHeads!, bias: false };
        return checkRanks(tp, (c) => new QKVParallelLinear(c, options, 'a.qkv_proj'), parts, 24, fused ? 'a.qkv_proj' : null);
      }),
    ));

  it.each([
    [1, 80],
    [2, 80],
    [4, 144],
    [8, 512],
  ])('ParallelLMHead on %i ranks with %i tokens, padding behind', async (tp, vocabulary) => {
    const parts = [{ name: 'h', outputs: vocabulary }];
    const baseRows = tp === 1 ? vocabulary : (Math.ceil(vocabulary / 64) * 64) / tp;
    const held = new Set<number>();
    for (let rank = 0; rank < tp; rank++) {
      const values = await load(new ParallelLMHead(configOf(tp, rank), { numEmbeddings: vocabulary, embeddingDim: 24 }, 'h'), checkpointOf(parts, 24, null));
      expect(values.weight!.shape).toEqual([baseRows, 24]);
      const own = Math.max(0, Math.min(baseRows, vocabulary - rank * baseRows));
      for (const element of checkRank(values, parts, 24, own)) held.add(element);
      expect(Array.from(values.weight!.data.subarray(own * 24)).every((v) => v === 0)).toBe(true);
    }
    expect(held.size).toBe(vocabulary * 24);
  });
});

describe('scales of parts', () => {
  const scales = withParams((spec) => {
    const rows = spec.outputPartitionSizes.reduce((a, b) => a + b, 0);
    const parts = spec.outputPartitionSizes.length;
    const param = (name: string, shape: number[], layout: ParameterLayout): Parameter =>
      new Parameter(`${spec.prefix}.${name}`, shape, 'float32', { sources: spec.sources(name), weightLoader: spec.loader(layout) });
    return {
      array: param('array', [parts], { perPart: true }),
      rows: param('rows', [rows, 1], { outputDim: 0, scalarFills: true }),
      order: param('order', [parts, spec.inputSizePerPartition], { perPart: true, inputDim: 0 }),
    };
  });
  const scalar = (name: string, value: number, shape: number[] = []): ArrayWeight => ArrayWeight.of(name, shape, Float32Array.of(value));
  const options = { hiddenSize: 4, headDim: 2, totalNumHeads: 4, totalNumKvHeads: 2, bias: false };
  const qkv = (tp: number, tpRank: number) => new QKVParallelLinear(makeVllmConfig({ parallel: { tensorParallelSize: tp, tpRank }, quantization: scales }), options, 'qkv_proj');
  const list = (values: Values, name: string): number[] => Array.from(values[name]!.data);

  it.each([1, 2, 4])('q, k and v have places 0, 1 and 2 of an array, and the rows of their part; %i ranks', async (tp) => {
    const checkpoint = ['q', 'k', 'v'].flatMap((id, i) => [
      scalar(`${id}_proj.array`, i + 1, i === 1 ? [1] : []),
      scalar(`${id}_proj.rows`, 10 * (i + 1), i === 2 ? [1] : []),
      ArrayWeight.counting(`${id}_proj.order`, [4], 100 * i),
    ]);
    for (let rank = 0; rank < tp; rank++) {
      const values = await load(qkv(tp, rank), checkpoint);
      expect(list(values, 'array')).toEqual([1, 2, 3]);
      const [q, kv] = [8 / tp, Math.max(2, 4 / tp)];
      expect(list(values, 'rows')).toEqual([...Array(q).fill(10), ...Array(kv).fill(20), ...Array(kv).fill(30)]);
      expect(list(values, 'order')).toEqual([0, 1, 2].flatMap((i) => [0, 1, 2, 3].map((n) => 100 * i + n)));
    }
  });

  it('one tensor for a layer that is fused on disk fills all places', async () => {
    const values = await load(qkv(1, 0), [scalar('qkv_proj.array', 7), scalar('qkv_proj.rows', 8), ArrayWeight.counting('qkv_proj.order', [4], 5)]);
    expect([list(values, 'array'), new Set(list(values, 'rows'))]).toEqual([[7, 7, 7], new Set([8])]);
    expect(list(values, 'order')).toEqual([5, 6, 7, 8, 5, 6, 7, 8, 5, 6, 7, 8]);
  });

  it('an array that is fused on disk is taken by its places', async () => {
    const array = ArrayWeight.counting('qkv_proj.array', [3], 4);
    const rows = ArrayWeight.counting('qkv_proj.rows', [16], 0); // one scale per output: rows without a second dimension
    const values = await load(qkv(1, 0), [array, rows, ArrayWeight.counting('qkv_proj.order', [4])]);
    expect(list(values, 'array')).toEqual([4, 5, 6]);
    expect(list(values, 'rows')).toEqual(Array.from({ length: 16 }, (_, i) => i));
  });

  it('one scale per output of a row-parallel layer is whole on every rank; its order of inputs is cut', async () => {
    for (const tpRank of [0, 1]) {
      const config = makeVllmConfig({ parallel: { tensorParallelSize: 2, tpRank }, quantization: scales });
      const layer = new RowParallelLinear(config, { inputSize: 8, outputSize: 3, bias: false }, 'r');
      const values = await load(layer, [scalar('r.array', 1), ArrayWeight.counting('r.rows', [3, 1]), ArrayWeight.counting('r.order', [8])]);
      expect([list(values, 'rows'), list(values, 'order')]).toEqual([[0, 1, 2], [0, 1, 2, 3].map((i) => 4 * tpRank + i)]);
    }
  });

  it.each([
    ['a part that does not exist', 'array', scalar('w', 1), 3, 'ERR_KVASIR_LAYER'],
    ['a scale of more elements than one', 'array', ArrayWeight.counting('w', [2]), 'q', 'ERR_KVASIR_WEIGHTS'],
    ['an array of other length', 'array', ArrayWeight.counting('w', [2]), null, 'ERR_KVASIR_WEIGHTS'],
    ['scales of other rows', 'rows', ArrayWeight.counting('w', [5]), 'k', 'ERR_KVASIR_WEIGHTS'],
    ['an order of other inputs', 'order', ArrayWeight.counting('w', [5]), 'k', 'ERR_KVASIR_WEIGHTS'],
  ] as const)('%s is refused', async (_name, param, weight, shardId, code) => {
    const layer = qkv(1, 0);
    const target = layer.params[param] as Parameter;
    target.allocate(device);
    await expectCode(code, () => target.load(weight, shardId as 'q'));
    for (const each of layer.parameters()) each.dispose();
  });

  it('a tensor of a fused layer that is neither cut with the outputs nor one per part is refused: the parts would overwrite one another', async () => {
    const shared = withParams((spec) => ({ s: new Parameter(`${spec.prefix}.s`, [2], 'float32', { sources: spec.sources('s'), weightLoader: spec.loader({}) }) }));
    const config = makeVllmConfig({ quantization: shared });
    const error = await expectCode('ERR_KVASIR_LAYER', () => new QKVParallelLinear(config, options, 'a.qkv_proj'));
    expect(error.message).toContain('a.qkv_proj');
    const single = new ReplicatedLinear(config, { inputSize: 4, outputSize: 2, bias: false }, 'l');
    expect(list(await load(single, [ArrayWeight.counting('l.s', [2])]), 's')).toEqual([0, 1]);
  });
});

describe('spans in units', () => {
  it.each([
    [{ start: 0, size: 100 }, 128, { start: 0, size: 1 }],
    [{ start: 128, size: 130 }, 128, { start: 1, size: 2 }],
    [{ start: 24, size: 8 }, 8, { start: 3, size: 1 }],
  ])('%j of %i', (span, unit, expected) => expect(inUnits(span, unit, 'x')).toEqual(expected));

  it('a span that begins inside of an element is refused', async () => {
    const error = await expectCode('ERR_KVASIR_QUANTIZATION', () => inUnits({ start: 100, size: 28 }, 128, 'l.scales'));
    expect(error.message).toContain('l.scales: 100 is not a multiple of 128');
  });
});
