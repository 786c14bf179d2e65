import { sample } from '../../lib/ops/sampling';
import type { Tensor } from '../../lib/tensor/tensor';
import { narrow } from '../../lib/tensor/views';
import {
  chiSquare,
  chiSquareLimit,
  exactProbabilities,
  gumbelReference,
  paramsRow,
  philox,
  SAMPLE_CASES,
  sampleParams,
  type SampleParams,
} from './cases/sampling';
import { forEachIsa, itOn, OpBench, randomValues, roundTo } from './harness';

const SEED = [0x1234567, -77] as const;

interface Draw {
  readonly logits: Tensor;
  readonly params: readonly SampleParams[];
  readonly seeds?: readonly number[];
  readonly positions: readonly number[];
  /** State row of each logits row; the default gives all of them row 0. */
  readonly rows?: readonly number[];
  readonly counts?: Tensor;
}

async function draw(bench: OpBench, d: Draw): Promise<Int32Array> {
  const out = bench.run(() => {
    const numRows = d.positions.length;
    const ids = bench.ints('int32', [numRows], new Array<number>(numRows).fill(-9));
    const params = bench.float('float32', [d.params.length, 8], Float64Array.from(d.params.flatMap(paramsRow)));
    const seeds = bench.ints('int32', [d.params.length, 2], d.seeds ?? d.params.flatMap(() => SEED));
    const rows = bench.ints('int32', [numRows], d.rows ?? new Array<number>(numRows).fill(0));
    sample(ids, d.logits, params, seeds, bench.ints('int32', [numRows], d.positions), rows, d.counts ?? null);
    return ids;
  });
  return (await out.read()) as Int32Array;
}

/** The same logits in every row. */
function repeated(bench: OpBench, logits: Float64Array, numRows: number): Tensor {
  const all = new Float64Array(logits.length * numRows);
  for (let r = 0; r < numRows; r++) all.set(logits, r * logits.length);
  return bench.float('float32', [numRows, logits.length], all);
}

const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i);

describe('distribution of sample', () => {
  const draws = 20000;

  it.each(SAMPLE_CASES.map((c) => [JSON.stringify(c), c] as const))('%s', async (_name, given) => {
    const p = sampleParams(given);
    const logits = roundTo('float32', randomValues(150, 7, 2));
    logits[3] = -Infinity;
    const exact = exactProbabilities(logits, p);
    const bench = new OpBench();
    const ids = await draw(bench, { logits: repeated(bench, logits, draws), params: [p], positions: range(draws) });
    const { statistic, degrees } = chiSquare(ids, exact);
    expect(statistic).toBeLessThan(chiSquareLimit(degrees));
    await bench.close();
  });

  it('is the same over seeds as over positions, and seeds differ', async () => {
    const logits = roundTo('float32', randomValues(40, 3, 1));
    const bench = new OpBench();
    const params = range(4000).map(() => sampleParams({}));
    const input = repeated(bench, logits, 4000);
    const positions = range(4000).map(() => 5);
    const low = await draw(bench, { logits: input, params, seeds: params.flatMap((_, i) => [i, 0]), positions, rows: range(4000) });
    const high = await draw(bench, { logits: input, params, seeds: params.flatMap((_, i) => [0, i]), positions, rows: range(4000) });
    for (const ids of [low, high]) {
      const { statistic, degrees } = chiSquare(ids, exactProbabilities(logits, sampleParams({})));
      expect(statistic).toBeLessThan(chiSquareLimit(degrees));
    }
    expect(low).not.toEqual(high);
    await bench.close();
  });
});

describe('sample', () => {
  it('has the published Philox4x32-10 in its reference', () => {
    expect(philox([0, 0, 0, 0], [0, 0])).toEqual([0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
    expect(philox([-1, -1, -1, -1], [-1, -1])).toEqual([0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
  });

  it.each(SAMPLE_CASES.map((c) => [JSON.stringify(c), c] as const))('draws the reference token at every instruction set: %s', async (_name, given) => {
    const p = sampleParams(given);
    const logits = roundTo('float32', randomValues(333, 11, 2));
    const exact = exactProbabilities(logits, p);
    const expected = range(60).map((position) => gumbelReference(exact, SEED, position));
    await forEachIsa(async () => {
      const bench = new OpBench();
      const ids = await draw(bench, { logits: repeated(bench, logits, 60), params: [p], positions: range(60) });
      expect(Array.from(ids)).toEqual(expected);
      await bench.close();
    });
  });

  it.each([{ topK: 40 }, { topK: 3000 }, { topP: 0.9 }, { topP: 0.999, topK: 500 }, { minP: 0.01 }, {}])(
    'draws the reference tokens from a large vocabulary with %j',
    async (given) => {
      const p = sampleParams(given);
      const logits = roundTo('float32', randomValues(9001, 5, 2));
      const exact = exactProbabilities(logits, p);
      const expected = range(2).map((position) => gumbelReference(exact, SEED, position));
      await forEachIsa(async () => {
        const bench = new OpBench();
        const ids = await draw(bench, { logits: repeated(bench, logits, 2), params: [p], positions: range(2) });
        expect(Array.from(ids)).toEqual(expected);
        await bench.close();
      });
    },
  );

  it('gives a request the same token wherever it stands in the batch and whatever else runs', async () => {
    const bench = new OpBench();
    const vocab = 500;
    const params = [{}, { topK: 30, temperature: 0.9 }, { topP: 0.8 }, { minP: 0.05 }, { temperature: 0 }].map(sampleParams);
    const seeds = params.flatMap((_, i) => [i * 31, i]);
    const rowsOf = params.map((_, i) => roundTo('float32', randomValues(vocab, 20 + i, 2)));
    const run = async (order: readonly number[]): Promise<Int32Array> => {
      const logits = bench.float('float32', [order.length, vocab], Float64Array.from(order.flatMap((i) => Array.from(rowsOf[i]!))));
      return draw(bench, { logits, params, seeds, positions: order.map((i) => 100 + i), rows: order });
    };
    const together = await run([0, 1, 2, 3, 4]);
    const shuffled = await run([3, 0, 4, 2, 1]);
    expect([3, 0, 4, 2, 1].map((i) => together[i]!)).toEqual(Array.from(shuffled));
    for (const i of range(5)) expect((await run([i]))[0]).toBe(together[i]);
    await bench.close();
  });

  it('takes the largest logit at temperature 0, the lowest id on ties', async () => {
    await forEachIsa(async () => {
      const bench = new OpBench();
      for (const vocab of [1, 5, 64, 4097, 10000]) {
        const logits = roundTo('float32', randomValues(vocab, vocab, 2));
        const at = Math.floor(vocab * 0.9);
        for (const id of [at, Math.min(at + 3, vocab - 1), vocab - 1]) logits[id] = 50;
        const ids = await draw(bench, { logits: repeated(bench, logits, 3), params: [sampleParams({ temperature: 0 })], positions: [0, 1, 2] });
        expect(Array.from(ids)).toEqual([at, at, at]);
      }
      await bench.close();
    });
  });

  it('keeps all tokens that equal the k-th', async () => {
    const bench = new OpBench();
    const logits = Float64Array.of(1, 3, 1, 2, 1, 0);
    const ids = await draw(bench, { logits: repeated(bench, logits, 3000), params: [sampleParams({ topK: 3 })], positions: range(3000) });
    expect(Array.from(new Set(ids)).sort()).toEqual([0, 1, 2, 3, 4]);
    await bench.close();
  });

  it.each([{}, { topK: 5 }, { topP: 0.9 }, { minP: 0.1 }, { temperature: 0 }])('answers -1 for NaN, all -infinity and padding with %j', async (given) => {
    await forEachIsa(async () => {
      const bench = new OpBench();
      const vocab = 100;
      const good = roundTo('float32', randomValues(vocab, 1, 2));
      const withNan = good.map((v, id) => (id === 97 ? NaN : v));
      const nothing = good.map(() => -Infinity);
      const all = Float64Array.from([withNan, nothing, good, good].flatMap((row) => Array.from(row)));
      const params = [sampleParams(given)];
      const ids = await draw(bench, { logits: bench.float('float32', [4, vocab], all), params, positions: [0, 0, 0, 0], rows: [0, 0, -1, 0] });
      expect(Array.from(ids.slice(0, 3))).toEqual([-1, -1, -1]);
      expect(ids[3]).toBeGreaterThanOrEqual(0);
      await bench.close();
    });
  });

  it('never draws a masked token, and finds the only one left', async () => {
    const bench = new OpBench();
    const logits = new Float64Array(1000).fill(-Infinity);
    logits[700] = -123;
    for (const given of [{}, { topK: 5 }, { topP: 0.3 }, { minP: 0.5 }, { temperature: 0.01 }]) {
      const ids = await draw(bench, { logits: repeated(bench, logits, 4), params: [sampleParams(given)], positions: range(4) });
      expect(Array.from(ids)).toEqual([700, 700, 700, 700]);
    }
    await bench.close();
  });

  it('takes an infinite logit as certain', async () => {
    const bench = new OpBench();
    const logits = randomValues(70, 2);
    logits[66] = Infinity;
    const ids = await draw(bench, { logits: repeated(bench, logits, 1), params: [sampleParams({ topP: 0.9 })], positions: [3] });
    expect(Array.from(ids)).toEqual([66]);
    await bench.close();
  });

  it('counts the token only for rows that have penalties', async () => {
    const bench = new OpBench();
    const logits = repeated(bench, Float64Array.of(0, 9, 1), 3);
    const counts = bench.ints('int32', [2, 3], [0, 0, 0, 0, 1 << 30, 0]);
    const params = [sampleParams({ temperature: 0 }), sampleParams({ temperature: 0, presence: 0.5 })];
    await draw(bench, { logits, params, positions: [0, 0, 0], rows: [0, 1, -1], counts });
    expect(Array.from((await counts.read()) as Int32Array)).toEqual([0, 0, 0, 0, (1 << 30) + 1, 0]);
    await bench.close();
  });

  it.each([0, 1, 2, 3])('reads rows that lie apart and start at element %d', async (start) => {
    const bench = new OpBench();
    const [vocab, width] = [1001, 1007];
    const wide = new Float64Array(3 * width).fill(NaN);
    const rows = range(3).map((r) => roundTo('float32', randomValues(vocab, 40 + r, 2)));
    rows.forEach((row, r) => wide.set(row, r * width + start));
    const logits = bench.run(() => narrow(bench.float('float32', [3, width], wide), 1, start, vocab));
    for (const given of [{}, { topK: 30, topP: 0.9 }, { minP: 0.02 }]) {
      const p = sampleParams(given);
      const ids = await draw(bench, { logits, params: [p], positions: range(3) });
      expect(Array.from(ids)).toEqual(rows.map((row, r) => gumbelReference(exactProbabilities(row, p), SEED, r)));
    }
    await bench.close();
  });

  /** Draws with state row 1 where only row 0 exists. */
  const drawFromMissingRow = (bench: OpBench): Tensor => {
    const logits = repeated(bench, randomValues(10, 1), 1);
    const ids = bench.ints('int32', [1], [5]);
    const params = bench.float('float32', [1, 8], Float64Array.from(paramsRow(sampleParams({}))));
    const one = (value: number): Tensor => bench.ints('int32', [1], [value]);
    bench.run(() => sample(ids, logits, params, bench.ints('int32', [1, 2], [0, 0]), one(0), one(1), null));
    return ids;
  };

  itOn('cpu')('rejects a state row that does not exist at the next fence', async () => {
    const bench = new OpBench();
    drawFromMissingRow(bench);
    await expect(bench.device.synchronize()).rejects.toMatchObject({ code: 'ERR_KVASIR_TENSOR' });
    await bench.close();
  });

  itOn('cuda')('takes a state row that does not exist as padding', async () => {
    const bench = new OpBench();
    expect(Array.from((await drawFromMissingRow(bench).read()) as Int32Array)).toEqual([-1]);
    await bench.close();
  });
});
