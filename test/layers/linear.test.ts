import { setTensorParallelGroup, tensorParallelAllGather, tensorParallelAllReduce, type TensorParallelGroup } from '../../lib/distributed/communicator';
import type { VllmConfig } from '../../lib/config/vllm';
import { ColumnParallelLinear, ReplicatedLinear, RowParallelLinear } from '../../lib/layers/linear';
import { LogitsProcessor } from '../../lib/layers/logits-processor';
import { MergedColumnParallelLinear } from '../../lib/layers/merged-linear';
import { RMSNorm } from '../../lib/layers/norm';
import { ParallelLMHead, VocabParallelEmbedding } from '../../lib/layers/vocab-embedding';
import { loadWeights } from '../../lib/nn/load-weights';
import { Module } from '../../lib/nn/module';
import { cast } from '../../lib/ops/copy';
import { Device, liveStorages } from '../../lib/tensor/device';
import { inScope, TemporaryScope } from '../../lib/tensor/scope';
import { tensorTable } from '../../lib/tensor/table';
import type { Tensor } from '../../lib/tensor/tensor';
import { narrow } from '../../lib/tensor/views';
import { ArrayWeight } from '../fixtures/array-weight';
import { expectCode } from '../fixtures/expect-error';
import { topReference } from '../ops/cases/sampling';
import { makeVllmConfig, type VllmConfigParts } from '../fixtures/vllm-config';

let device: Device;
let scope: TemporaryScope;
const modules: Module[] = [];

beforeEach(() => {
  device = Device.create('cpu', 1);
  scope = new TemporaryScope(device);
});

afterEach(async () => {
  for (const module of modules.splice(0)) for (const param of module.parameters()) param.dispose();
  scope.dispose();
  await device.close();
  expect(liveStorages().count).toBe(0);
  expect(tensorTable().liveRows).toBe(0);
});

function loaded<T extends Module>(layer: T, checkpoint: readonly ArrayWeight[]): T {
  modules.push(layer);
  for (const param of layer.parameters()) param.allocate(device);
  inScope(scope, () => loadWeights(layer, checkpoint));
  return layer;
}

const fraction = (name: string, shape: readonly number[], seed: number): ArrayWeight =>
  ArrayWeight.of(name, shape, Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => Math.round(64 * Math.sin(seed + 3 * i)) / 64));

function input(weight: ArrayWeight): Tensor {
  const x = scope.allocate(weight.shape, 'float32');
  x.write(weight.toArray());
  return x;
}

const floats = async (x: Tensor): Promise<number[]> => Array.from((await x.read()) as Float32Array);
const run = <T>(fn: () => T): T => inScope(scope, fn);

/** x W^T + b in float64. */
function product(x: ArrayWeight, weight: ArrayWeight, bias?: ArrayWeight): number[] {
  const [n, k] = x.shape as [number, number];
  const [a, w, b] = [x.toArray(), weight.toArray(), bias?.toArray()];
  const out: number[] = [];
  for (let i = 0; i < n; i++)
    for (let o = 0; o < weight.shape[0]!; o++) {
      let sum = b?.[o] ?? 0;
      for (let j = 0; j < k; j++) sum += a[i * k + j]! * w[o * k + j]!;
      out.push(sum);
    }
  return out;
}

function expectClose(actual: readonly number[], expected: readonly number[]): void {
  expect(actual).toHaveLength(expected.length);
  expected.forEach((value, i) => expect(actual[i]).toBeCloseTo(value, 4));
}

const X = fraction('x', [3, 8], 1);
const W = fraction('l.weight', [6, 8], 2);
const B = fraction('l.bias', [6], 3);

/** The configuration of one rank of a group in which collectives do nothing, but are counted. */
function rankConfig(tensorParallelSize: number, tpRank: number, parts: VllmConfigParts = {}): { config: VllmConfig; calls: string[] } {
  const config = makeVllmConfig({ ...parts, parallel: { tensorParallelSize, tpRank } });
  const calls: string[] = [];
  const count = (name: string) => (x: Tensor): Tensor => (calls.push(name), x);
  const group: TensorParallelGroup = { rank: tpRank, size: tensorParallelSize, allReduce: count('allReduce'), allGather: count('allGather') };
  setTensorParallelGroup(config.parallel, group);
  return { config, calls };
}

describe('linear layers on one rank', () => {
  it.each([
    ['ReplicatedLinear', ReplicatedLinear],
    ['ColumnParallelLinear', ColumnParallelLinear],
    ['RowParallelLinear', RowParallelLinear],
  ] as const)('%s computes x W^T + b', async (_name, Layer) => {
    const layer = loaded(new Layer(makeVllmConfig(), { inputSize: 8, outputSize: 6 }, 'l'), [W, B]);
    expectClose(await floats(run(() => layer.forward(input(X)))), product(X, W, B));
  });

  it('skipBiasAdd leaves the bias to the caller', async () => {
    const layer = loaded(new ColumnParallelLinear(makeVllmConfig(), { inputSize: 8, outputSize: 6, skipBiasAdd: true }, 'l'), [W, B]);
    expectClose(await floats(run(() => layer.forward(input(X)))), product(X, W));
    expect(layer.bias!.isLoaded).toBe(true);
  });

  it('bias: false expects none in the checkpoint', async () => {
    const layer = new RowParallelLinear(makeVllmConfig(), { inputSize: 8, outputSize: 6, bias: false }, 'l');
    expect([...layer.parameters()].map((p) => p.name)).toEqual(['l.weight']);
    await expectCode('ERR_KVASIR_WEIGHTS', () => loaded(layer, [W, B]));
  });

  it('merged parts stand side by side', async () => {
    const [gate, up] = [fraction('m.gate_proj.weight', [6, 8], 4), fraction('m.up_proj.weight', [6, 8], 5)];
    const options = { inputSize: 8, outputSizes: [6, 6], bias: false };
    const layer = loaded(new MergedColumnParallelLinear(makeVllmConfig(), options, 'm.gate_up_proj'), [up, gate]);
    const [g, u] = [product(X, gate), product(X, up)];
    const rows = [0, 1, 2].flatMap((i) => [...g.slice(i * 6, i * 6 + 6), ...u.slice(i * 6, i * 6 + 6)]);
    expectClose(await floats(run(() => layer.forward(input(X)))), rows);
  });
});

describe('linear layers on several ranks', () => {
  it.each([true, false])('the bias enters the sum over ranks once; inputIsParallel %p', async (inputIsParallel) => {
    const sum = product(X, W, B).map(() => 0);
    for (const tpRank of [0, 1]) {
      const { config, calls } = rankConfig(2, tpRank);
      const layer = loaded(new RowParallelLinear(config, { inputSize: 8, outputSize: 6, inputIsParallel }, 'l'), [W, B]);
      const part = run(() => layer.forward(inputIsParallel ? narrow(input(X), 1, tpRank * 4, 4) : input(X)));
      (await floats(part)).forEach((value, i) => (sum[i]! += value));
      expect(calls).toEqual(['allReduce']);
    }
    expectClose(sum, product(X, W, B));
  });

  it('reduceResults: false leaves the sum to the caller', async () => {
    const { config, calls } = rankConfig(2, 0);
    const layer = loaded(new RowParallelLinear(config, { inputSize: 8, outputSize: 6, bias: false, reduceResults: false }, 'l'), [W]);
    run(() => layer.forward(narrow(input(X), 1, 0, 4)));
    expect(calls).toEqual([]);
  });

  it.each([true, false])('a column-parallel rank has its columns; gatherOutput %p', async (gatherOutput) => {
    const whole = product(X, W, B);
    for (const tpRank of [0, 1]) {
      const { config, calls } = rankConfig(2, tpRank);
      const layer = loaded(new ColumnParallelLinear(config, { inputSize: 8, outputSize: 6, gatherOutput }, 'l'), [W, B]);
      const own = await floats(run(() => layer.forward(input(X))));
      expectClose(own, whole.filter((_, i) => Math.floor((i % 6) / 3) === tpRank));
      expect(calls).toEqual(gatherOutput ? ['allGather'] : []);
    }
  });

  it('collectives without a group are refused; on one rank they are the identity', async () => {
    const x = input(X);
    expect(tensorParallelAllReduce(makeVllmConfig().parallel, x)).toBe(x);
    expect(tensorParallelAllGather(makeVllmConfig().parallel, x)).toBe(x);
    const { parallel } = makeVllmConfig({ parallel: { tensorParallelSize: 2 } });
    await expectCode('ERR_KVASIR_UNSUPPORTED', () => tensorParallelAllReduce(parallel, x));
    await expectCode('ERR_KVASIR_UNSUPPORTED', () => tensorParallelAllGather(parallel, x));
  });
});

describe('embedding and LM head', () => {
  const VOCAB = 70;
  const table = fraction('e.weight', [VOCAB, 8], 6);
  const options = { numEmbeddings: VOCAB, embeddingDim: 8 };

  function ids(values: readonly number[]): Tensor {
    const tensor = scope.allocate([values.length], 'int32');
    tensor.write(Int32Array.from(values));
    return tensor;
  }

  const rows = (values: readonly number[]): number[] => values.flatMap((id) => Array.from(table.narrow(0, id, 1).toArray()));

  it('looks tokens up, on several ranks each its own: their sum is the whole', async () => {
    const wanted = [0, 69, 63, 64, 3, 69];
    for (const tp of [1, 2, 4]) {
      const sum = new Array<number>(wanted.length * 8).fill(0);
      for (let tpRank = 0; tpRank < tp; tpRank++) {
        const layer = loaded(new VocabParallelEmbedding(rankConfig(tp, tpRank).config, options, 'e'), [table]);
        (await floats(run(() => layer.forward(ids(wanted))))).forEach((value, i) => (sum[i]! += value));
      }
      expect(sum).toEqual(rows(wanted));
    }
  });

  it.each([
    ['its own', false, 'float32', 8],
    ["the embedding's", true, 'float32', 8],
    ['its own, which cannot be packed,', false, 'bfloat16', 7],
    ["the embedding's, which cannot be packed,", true, 'bfloat16', 7],
  ] as const)('an LM head with %s weight gives one logit per token and no padding', async (_name, tied, dtype, width) => {
    const config = makeVllmConfig({ model: { dtype } });
    const whole = (name: string, shape: readonly number[]): ArrayWeight =>
      ArrayWeight.of(name, shape, Float32Array.from({ length: shape[0]! * shape[1]! }, (_, i) => ((i * 7) % 11) - 5));
    const sizes = { numEmbeddings: VOCAB, embeddingDim: width };
    class Both extends Module {
      readonly embed = new VocabParallelEmbedding(config, sizes, 'e');
      readonly head = new ParallelLMHead(config, tied ? { ...sizes, tiedTo: this.embed } : sizes, 'h');
    }
    const { embed, head } = loaded(new Both(''), [whole('e.weight', [VOCAB, width]), ...(tied ? [] : [whole('h.weight', [VOCAB, width])])]);
    expect(head.weight === embed.weight).toBe(tied);
    const x = whole('x', [2, width]);
    const logits = run(() => new LogitsProcessor(config, VOCAB).forward(head, cast(input(x), dtype)));
    expect(logits).toMatchObject({ shape: [2, VOCAB], dtype: 'float32' });
    expectClose(await floats(logits), product(x, whole('h.weight', [VOCAB, width])));
    const looked = run(() => cast(embed.forward(ids([69])), 'float32'));
    expect(await floats(looked)).toEqual(Array.from(whole('e', [VOCAB, width]).narrow(0, 69, 1).toArray()));
  });

  it('on several ranks the padding is cut off after the gather', async () => {
    const x = fraction('x', [2, 8], 8);
    const weight = fraction('h.weight', [VOCAB, 8], 6);
    const shards: number[][] = [];
    for (const tpRank of [0, 1]) {
      const { config, calls } = rankConfig(2, tpRank);
      const head = loaded(new ParallelLMHead(config, options, 'h'), [weight]);
      const logits = run(() => new LogitsProcessor(config, 64).forward(head, input(x)));
      expect([logits.shape, calls]).toEqual([[2, 64], ['allGather']]);
      shards.push(await floats(logits));
    }
    const joined = [0, 1].flatMap((row) => shards.flatMap((s) => s.slice(row * 64, (row + 1) * 64)).slice(0, VOCAB));
    expectClose(joined, product(x, weight));
  });

  it.each([{}, { softCap: 0.5 }, { softCap: 2, scale: -3 }])('on several ranks the largest logits of each are gathered, as they are in all (%j)', async (logitsOptions) => {
    const [x, weight] = [fraction('x', [2, 8], 8), fraction('h.weight', [VOCAB, 8], 6)];
    for (const [tpRank, numValid] of [64, VOCAB - 64].entries()) {
      const { config, calls } = rankConfig(2, tpRank);
      const head = loaded(new ParallelLMHead(config, options, 'h'), [weight]);
      const own = await floats(run(() => new LogitsProcessor(config, 64, logitsOptions).forward(head, input(x)))); // with padding
      const rows = [0, 1].map((row) => Float64Array.from(own.slice(row * 64, (row + 1) * 64)));
      for (const [k, taken] of [[1, 1], [9, 9], [100, 64]] as const) {
        calls.length = 0;
        const top = run(() => new LogitsProcessor(config, VOCAB, logitsOptions).topTokens(head, input(x), k));
        expect([top.shape, top.dtype, calls]).toEqual([[2, 2 * taken], 'int32', ['allGather']]);
        const bits = (await top.read()) as Int32Array;
        const expected = rows.flatMap((row) => topReference(row, taken, 64 * tpRank, numValid));
        expect(Array.from(bits.filter((_, i) => i % 2 === 1))).toEqual(expected.map(([, id]) => id));
        expect(Array.from(new Float32Array(bits.buffer, bits.byteOffset, bits.length).filter((_, i) => i % 2 === 0))).toEqual(expected.map(([value]) => value));
      }
    }
  });

  it('an LM head is not called', async () => {
    const head = loaded(new ParallelLMHead(makeVllmConfig(), options, 'h'), [fraction('h.weight', [VOCAB, 8], 6)]);
    const error = await expectCode('ERR_KVASIR_LAYER', () => head.forward());
    expect(error.message).toContain('LogitsProcessor');
  });
});

describe('RMSNorm', () => {
  const weight = fraction('n.weight', [8], 9);
  const normed = (values: readonly number[]): number[] =>
    values.map((v, i) => {
      const row = values.slice(i - (i % 8), i - (i % 8) + 8);
      return (v / Math.sqrt(row.reduce((sum, r) => sum + r * r, 0) / 8 + 1e-5)) * weight.toArray()[i % 8]!;
    });

  it('begins the residual stream with its input, then adds to it in place', async () => {
    const norm = loaded(new RMSNorm(makeVllmConfig(), { hiddenSize: 8, eps: 1e-5 }, 'n'), [weight]);
    const x = fraction('x', [2, 8], 10);
    const y = fraction('y', [2, 8], 11);
    const [first, stream] = run(() => norm.forwardResidual(input(x), null));
    expectClose(await floats(first), normed(Array.from(x.toArray())));
    const [second, same] = run(() => norm.forwardResidual(input(y), stream));
    expect(same).toBe(stream);
    const sum = Array.from(x.toArray(), (v, i) => v + y.toArray()[i]!);
    expectClose(await floats(stream), sum);
    expectClose(await floats(second), normed(sum));
  });
});
