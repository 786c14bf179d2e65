import fc from 'fast-check';
import type { VllmConfig } from '../../lib/config/vllm';
import type { LinearBase } from '../../lib/layers/linear-base';
import { ColumnParallelLinear, ReplicatedLinear, RowParallelLinear } from '../../lib/layers/linear';
import { MergedColumnParallelLinear, QKVParallelLinear } from '../../lib/layers/merged-linear';
import { qkvShard } from '../../lib/layers/shard';
import { ParallelLMHead, VocabParallelEmbedding } from '../../lib/layers/vocab-embedding';
import { loadWeights } from '../../lib/nn/load-weights';
import type { Module } from '../../lib/nn/module';
import { Parameter, type WeightLoader } from '../../lib/nn/parameter';
import type { LinearMethod, QuantizationConfig } from '../../lib/quantization/method';
import { Device, liveStorages } from '../../lib/tensor/device';
import { tensorTable } from '../../lib/tensor/table';
import type { Tensor } from '../../lib/tensor/tensor';
import { ArrayWeight } from '../fixtures/array-weight';
import { makeVllmConfig } from '../fixtures/vllm-config';

/** Plain weights that are not packed when they are complete, so that they can be read back. */
const plain: QuantizationConfig = {
  name: 'plain',
  getQuantMethod: (): LinearMethod => ({
    createWeights(spec) {
      const rows = spec.outputPartitionSizes.reduce((a, b) => a + b, 0);
      const options = { sources: spec.sources('weight'), weightLoader: spec.loader({ outputDim: 0, inputDim: 1 }) };
      return { tensors: { weight: new Parameter(`${spec.prefix}.weight`, [rows, spec.inputSizePerPartition], spec.dtype, options) }, apply: (x: Tensor) => x };
    },
  }),
};

const tpSizes = fc.constantFrom(1, 2, 4, 8);
const configs = (tp: number): VllmConfig[] =>
  Array.from({ length: tp }, (_, tpRank) => makeVllmConfig({ parallel: { tensorParallelSize: tp, tpRank }, quantization: plain }));

let device: Device;

beforeAll(() => {
  device = Device.create('cpu', 1);
});

afterAll(async () => {
  await device.close();
  expect(liveStorages().count).toBe(0);
  expect(tensorTable().liveRows).toBe(0);
});

interface Rank {
  readonly weight: number[][];
  readonly bias: number[];
}

/** Loads the checkpoint into a layer as one rank does; the weight's rows and the bias. */
async function load(layer: Module & { readonly weight: Parameter | null; readonly bias?: Parameter | null }, checkpoint: readonly ArrayWeight[]): Promise<Rank> {
  for (const param of layer.parameters()) param.allocate(device);
  loadWeights(layer, checkpoint);
  const { tensor, shape } = layer.weight!;
  const [values, bias] = await Promise.all([tensor.read(), layer.bias?.tensor.read()]);
  for (const param of layer.parameters()) param.dispose();
  const width = shape[1]!;
  const rows = Array.from({ length: shape[0]! }, (_, i) => Array.from((values as Float32Array).subarray(i * width, (i + 1) * width)));
  return { weight: rows, bias: bias ? Array.from(bias as Float32Array) : [] };
}

const loadRanks = (tp: number, make: (config: VllmConfig) => LinearBase, checkpoint: readonly ArrayWeight[]): Promise<Rank[]> =>
  Promise.all(configs(tp).map((config) => load(make(config), checkpoint)));

function rowsOf(weight: ArrayWeight): number[][] {
  const [rows, width] = weight.shape as [number, number];
  const values = weight.toArray();
  return Array.from({ length: rows }, (_, i) => Array.from(values.subarray(i * width, (i + 1) * width)));
}

const check = (property: fc.IAsyncProperty<unknown>): Promise<void> => fc.assert(property as fc.IAsyncProperty<[unknown]>, { numRuns: 25 });

describe('the shards of all ranks together are the checkpoint', () => {
  it('ReplicatedLinear: everything on every rank', async () => {
    const weight = ArrayWeight.counting('l.weight', [6, 4]);
    const bias = ArrayWeight.counting('l.bias', [6], 1000);
    const ranks = await loadRanks(2, (c) => new ReplicatedLinear(c, { inputSize: 4, outputSize: 6 }, 'l'), [weight, bias]);
    for (const rank of ranks) expect(rank).toEqual({ weight: rowsOf(weight), bias: Array.from(bias.toArray()) });
  });

  it('ColumnParallelLinear: rows one rank after the other', () =>
    check(
      fc.asyncProperty(tpSizes, fc.integer({ min: 1, max: 5 }), fc.integer({ min: 1, max: 6 }), async (tp, perRank, inputSize) => {
        const outputSize = perRank * tp;
        const weight = ArrayWeight.counting('l.weight', [outputSize, inputSize]);
        const bias = ArrayWeight.counting('l.bias', [outputSize], 1000);
        const ranks = await loadRanks(tp, (c) => new ColumnParallelLinear(c, { inputSize, outputSize }, 'l'), [weight, bias]);
        expect(ranks.flatMap((r) => r.weight)).toEqual(rowsOf(weight));
        expect(ranks.flatMap((r) => r.bias)).toEqual(Array.from(bias.toArray()));
      }),
    ));

  it('RowParallelLinear: columns one rank after the other, the whole bias on every rank', () =>
    check(
      fc.asyncProperty(tpSizes, fc.integer({ min: 1, max: 5 }), fc.integer({ min: 1, max: 6 }), async (tp, perRank, outputSize) => {
        const inputSize = perRank * tp;
        const weight = ArrayWeight.counting('l.weight', [outputSize, inputSize]);
        const bias = ArrayWeight.counting('l.bias', [outputSize], 1000);
        const ranks = await loadRanks(tp, (c) => new RowParallelLinear(c, { inputSize, outputSize }, 'l'), [weight, bias]);
        expect(rowsOf(weight)).toEqual(rowsOf(weight).map((_, i) => ranks.flatMap((r) => r.weight[i]!)));
        for (const rank of ranks) expect(rank.bias).toEqual(Array.from(bias.toArray()));
      }),
    ));

  it('MergedColumnParallelLinear: every part, from its own tensor or from one fused on disk', () =>
    check(
      fc.asyncProperty(tpSizes, fc.array(fc.integer({ min: 1, max: 4 }), { minLength: 2, maxLength: 3 }), fc.boolean(), async (tp, perRank, fused) => {
        const inputSize = 3;
        const sizes = perRank.map((n) => n * tp);
        const names = sizes.map((_, i) => `part${i}`);
        const parts = sizes.map((size, i) => ArrayWeight.counting(`m.part${i}.weight`, [size, inputSize], i * 10000));
        const biases = sizes.map((size, i) => ArrayWeight.counting(`m.part${i}.bias`, [size], i * 10000));
        const whole = (name: string, shape: number[], from: ArrayWeight[]): ArrayWeight => ArrayWeight.of(name, shape, Float32Array.from(from.flatMap((p) => Array.from(p.toArray()))));
        const total = sizes.reduce((a, b) => a + b);
        const checkpoint = fused ? [whole('m.l.weight', [total, inputSize], parts), whole('m.l.bias', [total], biases)] : [...biases, ...parts];
        const ranks = await loadRanks(tp, (c) => new MergedColumnParallelLinear(c, { inputSize, outputSizes: sizes, partNames: names }, 'm.l'), checkpoint);
        let start = 0;
        parts.forEach((part, i) => {
          const span = [start, (start += perRank[i]!)] as const;
          expect(ranks.flatMap((r) => r.weight.slice(...span))).toEqual(rowsOf(part));
          expect(ranks.flatMap((r) => r.bias.slice(...span))).toEqual(Array.from(biases[i]!.toArray()));
        });
      }),
    ));

  it('QKVParallelLinear: query heads cut, KV heads cut or the same on neighbouring ranks, fused or not', () =>
    check(
      fc.asyncProperty(
        tpSizes,
        fc.constantFrom([8, 8], [8, 2], [16, 4], [8, 1], [16, 16]),
        fc.integer({ min: 1, max: 3 }),
        fc.integer({ min: 1, max: 3 }),
        fc.boolean(),
        async (tp, [totalNumHeads, totalNumKvHeads], headDim, vHeadDim, fused) => {
          const hiddenSize = 3;
          const sizes = { q: totalNumHeads! * headDim, k: totalNumKvHeads! * headDim, v: totalNumKvHeads! * vHeadDim };
          const ids = ['q', 'k', 'v'] as const;
          const weights = ids.map((id, i) => ArrayWeight.counting(`a.${id}_proj.weight`, [sizes[id], hiddenSize], i * 10000));
          const rows = Object.fromEntries(ids.map((id, i) => [id, rowsOf(weights[i]!)])) as Record<(typeof ids)[number], number[][]>;
          const values = Float32Array.from(weights.flatMap((w) => Array.from(w.toArray())));
          const checkpoint = fused ? [ArrayWeight.of('a.qkv_proj.weight', [values.length / hiddenSize, hiddenSize], values)] : weights;
          const options = { hiddenSize, headDim, vHeadDim, totalNumHeads: totalNumHeads!, totalNumKvHeads: totalNumKvHeads!, bias: false };
          const ranks = await loadRanks(tp, (c) => new QKVParallelLinear(c, options, 'a.qkv_proj'), checkpoint);
          const replicas = Math.max(1, tp / totalNumKvHeads!);
          const heads = { numHeads: totalNumHeads! / tp, numKvHeads: Math.max(1, totalNumKvHeads! / tp), kvReplicas: replicas };
          for (const id of ids) {
            const { start, size } = qkvShard(id, heads, headDim, vHeadDim, 0).dest;
            const held = ranks.map((r) => r.weight.slice(start, start + size));
            const owners = id === 'q' ? held : held.filter((_, rank) => rank % replicas === 0);
            expect(owners.flat()).toEqual(rows[id]);
            if (id !== 'q') held.forEach((own, rank) => expect(own).toEqual(held[rank - (rank % replicas)]));
          }
        },
      ),
    ));

  it('VocabParallelEmbedding and ParallelLMHead: base rows one rank after the other, zeros behind', () =>
    check(
      fc.asyncProperty(tpSizes, fc.integer({ min: 1, max: 200 }), fc.integer({ min: 0, max: 70 }), fc.boolean(), async (tp, org, added, head) => {
        const options = { numEmbeddings: org + added, orgNumEmbeddings: org, embeddingDim: 2 };
        const weight = ArrayWeight.counting('v.weight', [org, 2], 1);
        const make = (c: VllmConfig) => (head ? new ParallelLMHead(c, options, 'v') : new VocabParallelEmbedding(c, options, 'v'));
        const ranks = await Promise.all(configs(tp).map((config) => load(make(config), [weight])));
        const baseRows = (Math.ceil(org / 64) * 64) / tp;
        const rows = head && tp === 1 ? org : (Math.ceil((Math.ceil(org / 64) * 64 + added) / 64) * 64) / tp;
        const expected = rowsOf(weight);
        ranks.forEach((r, rank) => {
          const own = expected.slice(rank * baseRows, (rank + 1) * baseRows);
          expect(r.weight).toEqual([...own, ...Array.from({ length: rows - own.length }, () => [0, 0])]);
        });
        expect(ranks.flatMap((r, rank) => r.weight.slice(0, Math.max(0, Math.min(baseRows, org - rank * baseRows))))).toEqual(expected);
      }),
    ));
});

describe('a layer asks for the names that its loader serves', () => {
  it('q, k and v beside the layer, or its own name', () => {
    const layer = new QKVParallelLinear(makeVllmConfig(), { hiddenSize: 4, headDim: 2, totalNumHeads: 2, bias: true }, 'model.layers.0.self_attn.qkv_proj');
    expect(layer.weight!.sources).toEqual([
      { name: 'model.layers.0.self_attn.q_proj.weight', shardId: 'q' },
      { name: 'model.layers.0.self_attn.k_proj.weight', shardId: 'k' },
      { name: 'model.layers.0.self_attn.v_proj.weight', shardId: 'v' },
      { name: 'model.layers.0.self_attn.qkv_proj.weight', shardId: null },
    ]);
    expect(layer.bias!.sources.map((s) => s.name)).toContain('model.layers.0.self_attn.v_proj.bias');
    for (const param of layer.parameters()) param.dispose();
  });

  it('a loader of one part is given one part only', async () => {
    const seen: unknown[] = [];
    const weightLoader: WeightLoader = (param, loaded, shardId) => {
      seen.push(shardId);
      param.copyShard(loaded, 0, shardId === 'k' ? 1 : 0, 1);
    };
    const sources = [{ name: 'a', shardId: 'q' as const }, { name: 'b', shardId: 'k' as const }];
    const param = new Parameter('w', [2, 2], 'float32', { sources, weightLoader });
    param.allocate(device);
    param.load(ArrayWeight.counting('b', [1, 2], 5), 'k');
    expect(param.isLoaded).toBe(false);
    param.load(ArrayWeight.counting('a', [1, 2], 1), 'q');
    expect(param.isLoaded).toBe(true);
    expect(seen).toEqual(['k', 'q']);
    expect(Array.from((await param.tensor.read()) as Float32Array)).toEqual([1, 2, 5, 6]);
    param.dispose();
  });
});
