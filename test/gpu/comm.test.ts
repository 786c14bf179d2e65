import type { DType } from '../../lib/config/vllm';
import { Communicator } from '../../lib/distributed/communicator';
import { commInfo } from '../../lib/ops/comm';
import { copyInto } from '../../lib/ops/copy';
import { Device, liveStorages } from '../../lib/tensor/device';
import { inScope, TemporaryScope } from '../../lib/tensor/scope';
import type { Tensor } from '../../lib/tensor/tensor';
import { expectCode } from '../fixtures/expect-error';
import { describeGpu, gpuProblem } from '../fixtures/gpu';
import { encode, randomValues, roundTo, type FloatType } from '../ops/harness';

const FLOATS: readonly FloatType[] = ['float32', 'float16', 'bfloat16'];
/** Elements per rank: a part of a block's work, all blocks, several rounds of their buffers. */
const SIZES = [1, 4099, 1_500_003];
/** Rows and columns per rank. */
const GATHERS = [[1, 7], [3, 5], [129, 1001]] as const;

/** One rank of a group: a stream of its own, and tensors that live until close(). */
class Rank {
  readonly device = Device.create('cuda', 1);
  readonly scope = new TemporaryScope(this.device);
  comm!: Communicator;

  run<T>(body: () => T): T {
    return inScope(this.scope, body);
  }

  tensor(dtype: DType, shape: readonly number[], data: NodeJS.TypedArray): Tensor {
    const tensor = this.run(() => this.scope.allocate(shape, dtype));
    tensor.write(data);
    return tensor;
  }

  /** Runs the copies of allGather once: the first run of a kernel may wait for the device, and so for other ranks. */
  async warmUp(): Promise<void> {
    for (const [rows, width] of GATHERS)
      for (const dtype of ['float32', 'int32'] as const) {
        const { size } = this.comm;
        const [out, x] = [this.scope.allocate([rows, size * width], dtype), this.scope.allocate([size, rows, width], dtype)];
        this.run(() => copyInto(this.scope.view(out, 0, [size, rows, width], [width, size * width, 1]), x));
      }
    await this.device.synchronize();
  }

  async close(): Promise<void> {
    this.comm.dispose();
    this.scope.dispose();
    await this.device.close();
  }
}

/** All of them are driven by this thread: what one queues waits on the device for what the next one queues. */
async function localGroup(size: number): Promise<Rank[]> {
  const ranks = Array.from({ length: size }, () => new Rank());
  for (const [rank, r] of ranks.entries())
    r.comm = Communicator.create(r.device, { kind: 'local', rank, size, ...(rank > 0 ? { first: ranks[0]!.comm } : {}) });
  await Promise.all(ranks.map((r) => r.comm.connect(ranks.map(() => new Uint8Array()))));
  for (const r of ranks) await r.warmUp();
  return ranks;
}

const valuesOf = (dtype: FloatType, count: number, rank: number): Float64Array => roundTo(dtype, randomValues(count, 17 + rank));

/** Added in float32 in the order of the ranks, rounded once. */
function sums(dtype: FloatType, count: number, ranks: number): NodeJS.TypedArray {
  const sum = new Float64Array(count);
  for (let r = 0; r < ranks; r++) valuesOf(dtype, count, r).forEach((v, i) => (sum[i] = Math.fround(sum[i]! + v)));
  return encode(dtype, sum);
}

/** Reads after every rank has queued all its work. */
const readAll = (tensors: readonly Tensor[]): Promise<NodeJS.TypedArray[]> => Promise.all(tensors.map((t) => t.read()));

const same = (a: NodeJS.TypedArray, b: NodeJS.TypedArray): boolean => Buffer.from(a.buffer, a.byteOffset, a.byteLength).equals(Buffer.from(b.buffer, b.byteOffset, b.byteLength));

describeGpu('collectives of ranks that share a GPU', () => {
  let ranks: Rank[] = [];

  afterEach(async () => {
    for (const r of ranks) await r.close();
    ranks = [];
    expect(liveStorages().count).toBe(0);
  });

  describe.each([2, 4])('%i ranks', (size) => {
    beforeEach(async () => {
      ranks = await localGroup(size);
    });

    test.each(FLOATS)('allReduce of %s: the sum, the same bits on every rank', async (dtype) => {
      for (const count of SIZES) {
        const xs = ranks.map((r, i) => r.tensor(dtype, [count], encode(dtype, valuesOf(dtype, count, i))));
        ranks.forEach((r, i) => r.run(() => r.comm.allReduce(xs[i]!)));
        const expected = sums(dtype, count, size);
        for (const result of await readAll(xs)) expect(same(result, expected)).toBe(true);
      }
    });

    test.each(FLOATS)('reduceScatter of %s: the sum of a rank\'s own rows', async (dtype) => {
      for (const rows of [1, 4099]) {
        const count = size * rows * 5;
        const xs = ranks.map((r, i) => r.tensor(dtype, [size * rows, 5], encode(dtype, valuesOf(dtype, count, i))));
        const outs = ranks.map((r, i) => r.run(() => r.comm.reduceScatter(xs[i]!)));
        const expected = sums(dtype, count, size);
        for (const [i, result] of (await readAll(outs)).entries()) expect(same(result, expected.slice(i * rows * 5, (i + 1) * rows * 5))).toBe(true);
      }
    });

    test('allGather along the last dimension, of any dtype', async () => {
      for (const [rows, width] of GATHERS) {
        const at = (rank: number, row: number, column: number): number => (rank * 31 + row * 7 + column) % 120;
        const filled = <T extends Float32Array | Int32Array | Uint8Array>(data: T, rank: number): T => {
          for (let i = 0; i < data.length; i++) data[i] = at(rank, Math.floor(i / width), i % width);
          return data;
        };
        const make = { float32: () => new Float32Array(rows * width), int32: () => new Int32Array(rows * width), uint8: () => new Uint8Array(rows * width) };
        for (const dtype of rows === 1 ? (['float32', 'int32', 'uint8'] as const) : (['float32', 'int32'] as const)) {
          const xs = ranks.map((r, i) => r.tensor(dtype, [rows, width], filled(make[dtype](), i)));
          const outs = ranks.map((r, i) => r.run(() => r.comm.allGather(xs[i]!)));
          for (const out of outs) expect(out.shape).toEqual([rows, size * width]);
          for (const result of await readAll(outs)) {
            const wrong = Array.from(result as Float32Array).findIndex((v, i) => v !== at(Math.floor((i % (size * width)) / width), Math.floor(i / (size * width)), i % width));
            expect(wrong).toBe(-1);
          }
        }
      }
    });

    test('broadcast from each rank, of any dtype', async () => {
      for (let root = 0; root < size; root++) {
        const xs = ranks.map((r, i) => r.tensor('int64', [4099], BigInt64Array.from({ length: 4099 }, (_, k) => BigInt(i * 10_000 + k))));
        ranks.forEach((r, i) => r.run(() => r.comm.broadcast(xs[i]!, root)));
        const expected = BigInt64Array.from({ length: 4099 }, (_, k) => BigInt(root * 10_000 + k));
        for (const result of await readAll(xs)) expect(same(result, expected)).toBe(true);
      }
    });
  });

  test('graphs can be replayed, with other collectives in between', async () => {
    ranks = await localGroup(2);
    const count = 5003;
    const start = ranks.map((r, i) => r.tensor('bfloat16', [count], encode('bfloat16', valuesOf('bfloat16', count, i))));
    const xs = ranks.map((r) => r.tensor('bfloat16', [count], new Uint16Array(count)));
    const others = ranks.map((r, i) => r.tensor('float32', [70_000], new Float32Array(70_000).fill(i + 1)));
    const step = (r: Rank, i: number): void =>
      r.run(() => {
        copyInto(xs[i]!, start[i]!);
        r.comm.allReduce(xs[i]!);
        r.comm.broadcast(xs[i]!, 1);
      });
    ranks.forEach((r) => r.device.beginCapture());
    ranks.forEach(step);
    const graphs = ranks.map((r) => r.device.endCapture());
    for (let round = 0; round < 50; round++)
      ranks.forEach((r, i) => {
        r.device.launchGraph(graphs[i]!);
        if (round % 10 === 0) r.run(() => r.comm.broadcast(others[i]!, round % 20 === 0 ? 0 : 1));
      });
    const expected = sums('bfloat16', count, 2);
    for (const result of await readAll(xs)) expect(same(result, expected)).toBe(true);
    for (const result of await readAll(others)) expect(new Set(result as Float32Array)).toEqual(new Set([1]));
    ranks.forEach((r, i) => r.device.destroyGraph(graphs[i]!));
  });

  test('abort() ends a collective that waits in vain, and all later ones', async () => {
    ranks = await localGroup(2);
    const [first, second] = [ranks[0]!, ranks[1]!];
    const x = first.tensor('float32', [64], new Float32Array(64));
    first.run(() => first.comm.allReduce(x));
    const waiting = expectCode('ERR_KVASIR_RANK', () => first.device.synchronize());
    first.comm.abort();
    await waiting;
    await expectCode('ERR_KVASIR_RANK', () => first.run(() => first.comm.allReduce(x)));
    const y = second.tensor('float32', [64], new Float32Array(64));
    await expectCode('ERR_KVASIR_RANK', () => second.run(() => second.comm.allReduce(y)));
  });

  test('ranks that do not fit are refused', async () => {
    ranks = [new Rank()];
    const { device } = ranks[0]!;
    await expectCode('ERR_KVASIR_LAUNCH', () => Communicator.create(device, { kind: 'local', rank: 0, size: 5 }));
    await expectCode('ERR_KVASIR_LAUNCH', () => Communicator.create(device, { kind: 'local', rank: 1, size: 2 }));
    ranks[0]!.comm = Communicator.create(device, { kind: 'local', rank: 0, size: 2 });
    await expectCode('ERR_KVASIR_LAUNCH', () => Communicator.create(device, { kind: 'local', rank: 1, size: 3, first: ranks[0]!.comm }));
  });
});

const nccl = gpuProblem === '' ? commInfo().nccl : { found: false, report: gpuProblem };

(nccl.found ? describe : describe.skip)('NCCL with one rank', () => {
  let rank: Rank;

  beforeEach(async () => {
    rank = new Rank();
    rank.comm = Communicator.create(rank.device, { kind: 'nccl', rank: 0, size: 1, timeoutMs: 60_000 });
    const address = rank.comm.address();
    expect(address.length).toBe(128);
    await rank.comm.connect([address]);
  });
  afterEach(async () => {
    await rank.close();
    expect(liveStorages().count).toBe(0);
  });

  test('collectives give back what they were given', async () => {
    const data = encode('bfloat16', valuesOf('bfloat16', 600, 0));
    const x = rank.tensor('bfloat16', [3, 200], data);
    const outs = rank.run(() => [rank.comm.allReduce(x), rank.comm.allGather(x), rank.comm.reduceScatter(x), rank.comm.broadcast(x, 0)]);
    for (const result of await readAll(outs)) expect(same(result, data)).toBe(true);
  });

  test('after abort() collectives and fences fail', async () => {
    const x = rank.tensor('float32', [8], new Float32Array(8));
    rank.comm.abort();
    await expectCode('ERR_KVASIR_RANK', () => rank.device.synchronize());
    await expectCode('ERR_KVASIR_RANK', () => rank.run(() => rank.comm.allGather(x)));
  });
});
