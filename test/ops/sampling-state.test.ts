import {
  PROMPT_BIT,
  samplingBias,
  samplingCountOutput,
  samplingCountPrompt,
  samplingLogprobs,
  samplingMask,
  samplingPenalties,
} from '../../lib/ops/sampling';
import type { Tensor } from '../../lib/tensor/tensor';
import { narrow } from '../../lib/tensor/views';
import { paramsRow, penaltyReference, sampleParams } from './cases/sampling';
import { forEachIsa, itOn, OpBench, randomValues, roundTo } from './harness';

const ints = async (t: Tensor): Promise<number[]> => Array.from((await t.read()) as Int32Array);

describe('samplingCountPrompt and samplingCountOutput', () => {
  it('clear the row, mark the prompt and add outputs, in that row alone', async () => {
    const bench = new OpBench();
    const counts = bench.ints('int32', [3, 4], new Array<number>(12).fill(7));
    bench.run(() => {
      samplingCountPrompt(counts, 1, bench.ints('int32', [3], [2, 0, 2]));
      samplingCountOutput(counts, 1, bench.ints('int32', [3], [3, 3, 2]));
    });
    expect(await ints(counts)).toEqual([7, 7, 7, 7, PROMPT_BIT, 0, PROMPT_BIT + 1, 2, 7, 7, 7, 7]);
    await bench.close();
  });

  it('reject a row outside counts', async () => {
    const bench = new OpBench();
    const counts = bench.ints('int32', [1, 4], [7, 7, 7, 7]);
    const id = bench.ints('int32', [1], [0]);
    for (const op of [samplingCountPrompt, samplingCountOutput])
      expect(() => bench.run(() => op(counts, 1, id))).toThrow(expect.objectContaining({ code: 'ERR_KVASIR_TENSOR' }));
    expect(await ints(counts)).toEqual([7, 7, 7, 7]);
    await bench.close();
  });

  itOn('cpu')('reject an id outside the vocabulary at the next fence', async () => {
    const bench = new OpBench();
    const counts = bench.ints('int32', [1, 4], [7, 7, 7, 7]);
    for (const id of [-1, 4]) {
      bench.run(() => samplingCountPrompt(counts, 0, bench.ints('int32', [2], [1, id])));
      await expect(bench.device.synchronize()).rejects.toMatchObject({ code: 'ERR_KVASIR_TENSOR' });
    }
    expect(await ints(counts)).toEqual([7, 7, 7, 7]);
    await bench.close();
  });

  itOn('cuda')('skip ids outside the vocabulary', async () => {
    const bench = new OpBench();
    const counts = bench.ints('int32', [2, 4], new Array<number>(8).fill(7));
    bench.run(() => {
      samplingCountPrompt(counts, 0, bench.ints('int32', [3], [1, -1, 4]));
      samplingCountOutput(counts, 0, bench.ints('int32', [3], [4, 2, -1]));
    });
    expect(await ints(counts)).toEqual([0, PROMPT_BIT, 1, 0, 7, 7, 7, 7]);
    await bench.close();
  });
});

describe('samplingPenalties', () => {
  it('agrees with one token at a time, and leaves neutral and padding rows as they are', async () => {
    const vocab = 77;
    const cases = [{ repetition: 1.3 }, { presence: 0.7 }, { frequency: -0.4 }, { repetition: 0.8, presence: -0.5, frequency: 0.25 }, {}].map(sampleParams);
    const prompt = [0, 5, 76, 33];
    const output = [5, 5, 5, 12, 16, 75, 76];
    const rows = [3, 0, -1, 4, 2, 1];
    const logits = roundTo('float32', randomValues(rows.length * vocab, 1, 3));
    const bench = new OpBench();
    const tensor = bench.float('float32', [rows.length, vocab], logits);
    bench.run(() => {
      const counts = bench.ints('int32', [cases.length, vocab], new Array<number>(cases.length * vocab).fill(0));
      cases.forEach((_, row) => {
        samplingCountPrompt(counts, row, bench.ints('int32', [prompt.length], prompt));
        samplingCountOutput(counts, row, bench.ints('int32', [output.length], output));
      });
      const params = bench.float('float32', [cases.length, 8], Float64Array.from(cases.flatMap(paramsRow)));
      samplingPenalties(tensor, counts, params, bench.ints('int32', [rows.length], rows));
    });
    const actual = await bench.values(tensor);
    rows.forEach((row, r) => {
      const before = logits.slice(r * vocab, (r + 1) * vocab);
      const expected = row < 0 ? before : penaltyReference(before, prompt, output, cases[row]!);
      expected.forEach((value, id) => expect(actual[r * vocab + id]).toBeCloseTo(value, 5));
    });
    expect(actual.slice(3 * vocab, 4 * vocab)).toEqual(logits.slice(3 * vocab, 4 * vocab));
    await bench.close();
  });
});

describe('samplingBias and samplingMask', () => {
  it('change the given ids of one row', async () => {
    const bench = new OpBench();
    const logits = bench.float('float32', [2, 4], Float64Array.of(1, 2, 3, 4, 5, 6, 7, 8));
    bench.run(() => {
      samplingBias(logits, 1, bench.ints('int32', [3], [3, 0, 3]), bench.float('float32', [3], Float64Array.of(10, -1, 0.5)));
      samplingMask(logits, 0, bench.ints('int32', [2], [1, 3]), false);
    });
    expect(Array.from(await bench.values(logits))).toEqual([1, -Infinity, 3, -Infinity, 4, 6, 7, 18.5]);
    await bench.close();
  });

  it('keep only the given ids', async () => {
    const bench = new OpBench();
    const logits = bench.float('float32', [2, 4], Float64Array.of(1, 2, 3, 4, 5, 6, 7, 8));
    bench.run(() => samplingMask(logits, 1, bench.ints('int32', [3], [2, 0, 2]), true));
    expect(Array.from(await bench.values(logits))).toEqual([1, 2, 3, 4, 5, -Infinity, 7, -Infinity]);
    await bench.close();
  });

  it('add the values of an id that is given several times in order', async () => {
    const bench = new OpBench();
    const n = 2500;
    const ids = Array.from({ length: n }, (_, i) => (i * 7) % 11);
    const values = roundTo('float32', randomValues(n, 8, 5));
    const expected = roundTo('float32', randomValues(11, 9));
    const logits = bench.float('float32', [1, 11], expected);
    bench.run(() => samplingBias(logits, 0, bench.ints('int32', [n], ids), bench.float('float32', [n], values)));
    ids.forEach((id, i) => (expected[id] = Math.fround(expected[id]! + values[i]!)));
    expect(await bench.values(logits)).toEqual(expected);
    await bench.close();
  });

  it('reject rows outside logits', async () => {
    const bench = new OpBench();
    const logits = bench.float('float32', [1, 4], Float64Array.of(1, 2, 3, 4));
    expect(() => bench.run(() => samplingMask(logits, 1, bench.ints('int32', [1], [0]), true))).toThrow(
      expect.objectContaining({ code: 'ERR_KVASIR_TENSOR' }),
    );
    await bench.close();
  });

  itOn('cpu')('reject ids outside the vocabulary at the next fence', async () => {
    const bench = new OpBench();
    const logits = bench.float('float32', [1, 4], Float64Array.of(1, 2, 3, 4));
    for (const id of [-1, 4]) {
      bench.run(() => samplingMask(logits, 0, bench.ints('int32', [1], [id]), true));
      await expect(bench.device.synchronize()).rejects.toMatchObject({ code: 'ERR_KVASIR_TENSOR' });
    }
    expect(Array.from(await bench.values(logits))).toEqual([1, 2, 3, 4]);
    await bench.close();
  });

  itOn('cuda')('skip ids outside the vocabulary', async () => {
    const bench = new OpBench();
    const logits = bench.float('float32', [2, 4], Float64Array.of(1, 2, 3, 4, 5, 6, 7, 8));
    bench.run(() => {
      samplingBias(logits, 0, bench.ints('int32', [3], [-1, 4, 1]), bench.float('float32', [3], Float64Array.of(9, 9, 9)));
      samplingMask(logits, 0, bench.ints('int32', [3], [-1, 4, 0]), false);
      samplingMask(logits, 1, bench.ints('int32', [3], [-1, 4, 2]), true);
    });
    expect(Array.from(await bench.values(logits))).toEqual([-Infinity, 11, 3, 4, -Infinity, -Infinity, 7, -Infinity]);
    await bench.close();
  });
});

/** Log-softmax, rank and the order of one row, in float64. */
function logprobReference(row: Float64Array): { logprobs: Float64Array; order: number[] } {
  const max = row.reduce((a, b) => Math.max(a, b), -Infinity);
  const logSum = max + Math.log(row.reduce((sum, x) => sum + Math.exp(x - max), 0));
  return { logprobs: row.map((x) => x - logSum), order: Array.from(row.keys()).sort((a, b) => row[b]! - row[a]! || a - b) };
}

describe('samplingLogprobs', () => {
  it.each([
    [1, 1, 1],
    [3, 33, 33],
    [2, 4099, 20],
    [2, 4099, 4099],
    [2, 9001, 512],
    [3, 9001, 600],
    [5, 700, 0],
  ])('%d rows of %d, top %d, agree with float64', async (numRows, vocab, topK) => {
    const logits = roundTo('float32', randomValues(numRows * vocab, 9, 4)).map((x) => Math.round(x * 64) / 64); // with ties
    logits[vocab - 1] = -Infinity;
    if (vocab === 1) logits[0] = 2;
    const targets = Array.from({ length: numRows }, (_, r) => (r * 977) % vocab);
    await forEachIsa(async () => {
      const bench = new OpBench();
      const result = bench.run(() => samplingLogprobs(bench.float('float32', [numRows, vocab], logits), bench.ints('int32', [numRows], targets), topK));
      const logprob = await bench.values(result.logprob);
      const rank = await ints(result.rank);
      const topIds = result.topIds ? await ints(result.topIds) : [];
      const topLogprobs = result.topLogprobs ? await bench.values(result.topLogprobs) : new Float64Array();
      for (let r = 0; r < numRows; r++) {
        const row = logits.slice(r * vocab, (r + 1) * vocab);
        const { logprobs, order } = logprobReference(row);
        expect(Math.abs(logprob[r]! - logprobs[targets[r]!]!)).toBeLessThan(5e-6);
        expect(rank[r]).toBe(1 + row.filter((x) => x > row[targets[r]!]!).length);
        expect(topIds.slice(r * topK, (r + 1) * topK)).toEqual(order.slice(0, topK));
        const worst = order.slice(0, topK).reduce((most, id, i) => {
          const actual = topLogprobs[r * topK + i]!;
          return Object.is(actual, logprobs[id]) ? most : Math.max(most, Math.abs(actual - logprobs[id]!));
        }, 0);
        expect(worst).toBeLessThan(5e-6);
      }
      await bench.close();
    });
  });

  it('gives NaN and rank 0 for unknown targets, NaN for rows with NaN', async () => {
    const bench = new OpBench();
    const logits = Float64Array.of(1, 2, 3, 1, NaN, 3, 1, 2, 3);
    const result = bench.run(() => samplingLogprobs(bench.float('float32', [3, 3], logits), bench.ints('int32', [3], [-1, 0, 3]), 3));
    expect(Array.from(await bench.values(result.logprob))).toEqual([NaN, NaN, NaN]);
    expect(await ints(result.rank)).toEqual([0, 2, 0]);
    expect(await ints(result.topIds!)).toEqual([2, 1, 0, 2, 0, -1, 2, 1, 0]);
    expect((await bench.values(result.topLogprobs!)).slice(3, 6)).toEqual(Float64Array.of(NaN, NaN, NaN));
    await bench.close();
  });

  it('reads logits whose rows lie apart', async () => {
    const bench = new OpBench();
    const wide = bench.float('float32', [2, 6], Float64Array.of(9, 9, 0, 1, 2, 9, 9, 9, 5, 4, 3, 9));
    const result = bench.run(() => samplingLogprobs(narrow(wide, 1, 2, 3), bench.ints('int32', [2], [0, 0]), 1));
    expect(await ints(result.rank)).toEqual([3, 1]);
    expect(await ints(result.topIds!)).toEqual([2, 0]);
    await bench.close();
  });
});
