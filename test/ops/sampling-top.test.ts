import { sample, sampleTop, samplingTop } from '../../lib/ops/sampling';
import type { Tensor } from '../../lib/tensor/tensor';
import { narrow } from '../../lib/tensor/views';
import { exactProbabilities, gumbelReference, paramsRow, SAMPLE_CASES, sampleParams, TOP_CASES, topReference, type Pair, type SampleParams } from './cases/sampling';
import { expectCode } from '../fixtures/expect-error';
import { forEachIsa, itOn, OpBench, randomValues, roundTo } from './harness';

const SEED = [0x1234567, -77] as const;
const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i);

/** [numRows][n] pairs of a tensor [numRows, 2 n]. */
async function pairsOf(tensor: Tensor): Promise<Pair[][]> {
  const ids = (await tensor.read()) as Int32Array;
  const values = new Float32Array(ids.buffer, ids.byteOffset, ids.length);
  const [numRows, width] = tensor.shape as [number, number];
  return range(numRows).map((r) => range(width / 2).map((i): Pair => [values[r * width + 2 * i]!, ids[r * width + 2 * i + 1]!]));
}

function pairsTensor(bench: OpBench, rows: readonly (readonly Pair[])[]): Tensor {
  const width = 2 * rows[0]!.length;
  const ids = new Int32Array(rows.length * width);
  const values = new Float32Array(ids.buffer);
  rows.forEach((row, r) =>
    row.forEach(([value, id], i) => {
      values[r * width + 2 * i] = value;
      ids[r * width + 2 * i + 1] = id;
    }),
  );
  return bench.ints('int32', [rows.length, width], Array.from(ids));
}

/** Logits as several ranks have them, and the candidates that they exchange. */
async function exchanged(bench: OpBench, logits: Tensor, ranks: number, k: number): Promise<Tensor> {
  const [numRows, vocab] = logits.shape as [number, number];
  const width = Math.ceil(vocab / ranks);
  const parts = range(ranks).map((rank) => {
    const columns = Math.max(0, Math.min(width, vocab - rank * width));
    const own = bench.run(() => narrow(logits, 1, Math.min(rank * width, vocab - 1), Math.max(columns, 1)));
    return pairsOf(bench.run(() => samplingTop(own, k, rank * width, columns)));
  });
  const all = await Promise.all(parts);
  return pairsTensor(bench, range(numRows).map((r) => all.flatMap((part) => part[r]!)));
}

interface Requests {
  readonly params: readonly SampleParams[];
  readonly positions: readonly number[];
  /** State row of each row; the default gives all of them row 0. */
  readonly rows?: readonly number[];
}

/** Tokens drawn from whole rows (float32) or from candidates (int32). */
async function draw(bench: OpBench, from: Tensor, { params, positions, rows = positions.map(() => 0) }: Requests): Promise<number[]> {
  const n = positions.length;
  const out = bench.run(() => {
    const ids = bench.ints('int32', [n], new Array<number>(n).fill(-9));
    const state = bench.float('float32', [params.length, 8], Float64Array.from(params.flatMap(paramsRow)));
    const seeds = bench.ints('int32', [params.length, 2], params.flatMap(() => SEED));
    const [at, of] = [bench.ints('int32', [n], positions), bench.ints('int32', [n], rows)];
    if (from.dtype === 'float32') sample(ids, from, state, seeds, at, of, null);
    else sampleTop(ids, from, state, seeds, at, of);
    return ids;
  });
  return Array.from((await out.read()) as Int32Array);
}

function logitsOf(bench: OpBench, rows: readonly Float64Array[]): Tensor {
  return bench.float('float32', [rows.length, rows[0]!.length], Float64Array.from(rows.flatMap((row) => Array.from(row))));
}

describe('samplingTop', () => {
  it.each(TOP_CASES)('%d rows of %d, top %d from id %d, %d columns', async (numRows, n, k, firstId, numValid) => {
    const rows = range(numRows).map((r) => roundTo('float32', randomValues(n, 7 * r + n, 4)).map((x) => Math.round(x * 64) / 64)); // with ties
    rows[0]!.forEach((_, i, row) => i % 3 === 1 && (row[i] = -Infinity));
    rows.forEach((row) => row.fill(NaN, numValid));
    await forEachIsa(async () => {
      const bench = new OpBench();
      const top = bench.run(() => samplingTop(logitsOf(bench, rows), k, firstId, numValid));
      expect(await pairsOf(top)).toEqual(rows.map((row) => topReference(row, k, firstId, numValid)));
      await bench.close();
    });
  });

  it.each([1, 5, 64])('of rows with many equals, few numbers, NaN and infinity takes %d', async (k) => {
    const n = 6000;
    const normal = roundTo('float32', randomValues(n, 3, 2));
    const [nan, infinite, peaks] = [normal.slice(), normal.slice(), normal.slice()];
    nan[n - 1] = NaN;
    infinite[4321] = Infinity;
    for (let i = 0; i < 100; i++) peaks[4 * i] = 40 + (i % 7); // all seen by few threads of a block
    const few = new Float64Array(n).fill(-Infinity);
    few[5000] = few[17] = -3;
    const rows = [nan, infinite, peaks, few, new Float64Array(n).fill(-Infinity), new Float64Array(n).fill(2)];
    await forEachIsa(async () => {
      const bench = new OpBench();
      const top = bench.run(() => samplingTop(logitsOf(bench, rows), k, 1000, n));
      expect(await pairsOf(top)).toEqual(rows.map((row) => topReference(row, k, 1000, n)));
      await bench.close();
    });
  });

  it.each([0, 1, 2, 3])('reads rows that lie apart and start at element %d', async (start) => {
    const bench = new OpBench();
    const [n, width] = [5001, 5007];
    const wide = range(3).map((r) => new Float64Array(width).fill(99).map((v, i) => (i >= start && i < start + n ? Math.fround(Math.sin(r + i * i)) : v)));
    const own = bench.run(() => narrow(logitsOf(bench, wide), 1, start, n));
    for (const k of [1, 20]) {
      const expected = wide.map((row) => topReference(row.slice(start, start + n), k, 7, n));
      expect(await pairsOf(bench.run(() => samplingTop(own, k, 7, n)))).toEqual(expected);
    }
    await bench.close();
  });

  it.each<[string, number, number, number]>([
    ['out must have 1 to 512 pairs per row', 0, 0, 4],
    ['out must have 1 to 512 pairs per row', 513, 0, 4],
    ['numValid must be from 0 to vocabSize', 1, 0, 5],
    ['numValid must be from 0 to vocabSize', 1, 0, -1],
    ['firstId and the ids behind it', 1, -1, 4],
    ['firstId and the ids behind it', 1, 2 ** 31 - 4, 4],
  ])('refuses: %s', async (message, k, firstId, numValid) => {
    const bench = new OpBench();
    const logits = bench.float('float32', [1, 4], Float64Array.of(1, 2, 3, 4));
    const error = await expectCode('ERR_KVASIR_TENSOR', () => bench.run(() => samplingTop(logits, k, firstId, numValid)));
    expect(error.message).toContain(message);
    await bench.close();
  });
});

/** Parameters for which the 64 largest of each rank are enough. */
const ENOUGH = [...SAMPLE_CASES.filter((p) => p.topK), { topK: 40, temperature: 0.7 }, { topK: 64 }, { topK: 50, topP: 0.9, minP: 0.01 }, { topK: 64, topP: 0.999, temperature: 2 }];

describe('sampleTop', () => {
  it.each(ENOUGH.map((p) => [JSON.stringify(p), p] as const))('draws the token of the whole row at every instruction set: %s', async (_name, given) => {
    const [vocab, n] = [9001, 40];
    const p = sampleParams(given);
    const row = roundTo('float32', randomValues(vocab, 11, 2));
    const exact = exactProbabilities(row, p);
    const expected = range(n).map((position) => gumbelReference(exact, SEED, position));
    await forEachIsa(async () => {
      const bench = new OpBench();
      const logits = logitsOf(bench, new Array<Float64Array>(n).fill(row));
      const requests = { params: [p], positions: range(n) };
      for (const ranks of [1, 3]) expect(await draw(bench, await exchanged(bench, logits, ranks, 64), requests)).toEqual(expected);
      expect(await draw(bench, logits, requests)).toEqual(expected);
      await bench.close();
    });
  });

  it.each([1, 64])('with %d of each rank, greedy rows take the largest logit, the lowest id among equals of several ranks', async (k) => {
    const vocab = 1000;
    const rows = [[999], [0], [250, 249, 700], [499, 500], [750, 751, 999]].map((at, r) => {
      const row = roundTo('float32', randomValues(vocab, r, 2));
      for (const id of at) row[id] = 50;
      return row;
    });
    await forEachIsa(async () => {
      const bench = new OpBench();
      const candidates = await exchanged(bench, logitsOf(bench, rows), 4, k);
      expect(await draw(bench, candidates, { params: [sampleParams({ temperature: 0 })], positions: [0, 0, 0, 0, 0] })).toEqual([999, 0, 249, 499, 750]);
      await bench.close();
    });
  });

  it('takes greedy and other rows together, and ranks without a token', async () => {
    const bench = new OpBench();
    const params = [{ temperature: 0 }, { topK: 5 }, { topK: 64, topP: 0.8, minP: 0.02 }].map(sampleParams);
    const rows = range(6).map((r) => roundTo('float32', randomValues(105, r + 50, 2)));
    const requests = { params, positions: range(6), rows: [1, 0, 2, 0, 1, 2] };
    const logits = logitsOf(bench, rows);
    const expected = await draw(bench, logits, requests);
    for (const ranks of [2, 4, 8, 14]) expect(await draw(bench, await exchanged(bench, logits, ranks, 64), requests)).toEqual(expected);
    await bench.close();
  });

  it('does not depend on the order of the candidates, and keeps all that equal the k-th', async () => {
    const bench = new OpBench();
    const n = 2000;
    const pairs: Pair[] = [[1, 64], [3, 9], [1, 3], [2, 12345], [1, 77], [0, 5], [-Infinity, -1]];
    const requests = { params: [sampleParams({ topK: 3 })], positions: range(n) };
    const ids = await draw(bench, pairsTensor(bench, range(n).map(() => pairs)), requests);
    expect(new Set(ids)).toEqual(new Set([64, 9, 3, 12345, 77]));
    expect(await draw(bench, pairsTensor(bench, range(n).map((r) => [...pairs.slice(r % 7), ...pairs.slice(0, r % 7)])), requests)).toEqual(ids);
    await bench.close();
  });

  it.each([{ topK: 5 }, { topK: 5, topP: 0.9 }, { minP: 0.1 }, { temperature: 0 }])('answers -1 for NaN, no token and padding with %j', async (given) => {
    await forEachIsa(async () => {
      const bench = new OpBench();
      const good = roundTo('float32', randomValues(300, 1, 2));
      const nan = good.map((v, id) => (id === 150 ? NaN : v));
      const infinite = good.map((v, id) => (id === 299 ? Infinity : v));
      const only = good.map((_, id) => (id === 201 ? -123 : -Infinity));
      const logits = logitsOf(bench, [nan, good.map(() => -Infinity), good, infinite, only]);
      const requests = { params: [sampleParams(given)], positions: [0, 0, 0, 0, 0], rows: [0, 0, -1, 0, 0] };
      expect(await draw(bench, await exchanged(bench, logits, 3, 64), requests)).toEqual([-1, -1, -1, 299, 201]);
      await bench.close();
    });
  });

  /** Draws with state row 1 where only row 0 exists. */
  const drawFromMissingRow = (bench: OpBench): Promise<number[]> =>
    draw(bench, pairsTensor(bench, [[[1, 2]]]), { params: [sampleParams({})], positions: [0], rows: [1] });

  itOn('cpu')('rejects a state row that does not exist', async () => {
    const bench = new OpBench();
    await expect(drawFromMissingRow(bench)).rejects.toMatchObject({ code: 'ERR_KVASIR_TENSOR' });
    await bench.close();
  });

  itOn('cuda')('takes a state row that does not exist as padding', async () => {
    const bench = new OpBench();
    expect(await drawFromMissingRow(bench)).toEqual([-1]);
    await bench.close();
  });

  it.each([0, 3, 4098])('refuses rows of %d numbers as candidates', async (width) => {
    const bench = new OpBench();
    const candidates = bench.ints('int32', [1, width], new Array<number>(width).fill(0));
    const requests = { params: [sampleParams({})], positions: [0] };
    const error = await expectCode('ERR_KVASIR_TENSOR', () => draw(bench, candidates, requests));
    expect(error.message).toContain('candidates must have 1 to 2048 pairs per row');
    await bench.close();
  });
});
