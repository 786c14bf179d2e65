import { kvCacheWrite } from '../../lib/ops/cache';
import { output } from '../../lib/ops/run';
import { narrow, reshape } from '../../lib/tensor/views';
import { CACHE_CASES, cacheReference, PAGE_TOKENS } from './cases/cache';
import { itOn, OpBench, randomValues, roundTo } from './harness';

describe('kvCacheWrite', () => {
  it.each(CACHE_CASES.map((c) => [`${c.dtype} ${c.numKvHeads}x${c.headDim}, ${c.slots.length} tokens`, c] as const))('%s', async (_name, c) => {
    const bench = new OpBench();
    const width = c.numKvHeads * c.headDim;
    const tokens = c.slots.length;
    // k and v are parts of merged rows, as a fused projection gives them.
    const merged = roundTo(c.dtype, randomValues(tokens * (2 * width + 6), 1));
    const part = (start: number): Float64Array =>
      Float64Array.from({ length: tokens * width }, (_, i) => merged[Math.floor(i / width) * (2 * width + 6) + start + (i % width)]!);
    const wide = bench.float(c.dtype, [tokens, 2 * width + 6], merged);
    const cache = bench.poisoned(c.dtype, [c.numBlocks, 2, c.numKvHeads, PAGE_TOKENS, c.headDim]);
    const slots = bench.ints('int64', [tokens], c.slots);
    bench.run(() => {
      const heads = (start: number) => reshape(narrow(wide, 1, start, width), [tokens, c.numKvHeads, c.headDim]);
      kvCacheWrite(cache, heads(4), heads(4 + width), slots);
    });
    const expected = cacheReference(c, part(4), part(4 + width));
    const actual = await bench.values(cache);
    expect(actual).toHaveLength(expected.length);
    expect(actual.findIndex((value, i) => !Object.is(value, expected[i]))).toBe(-1);
    await bench.close();
  });

  itOn('cuda')('reaches blocks beyond 2^31 elements', async () => {
    const bench = new OpBench();
    const [numBlocks, heads, headDim] = [70_000, 8, 128];
    const cache = bench.run(() => output([numBlocks, 2, heads, PAGE_TOKENS, headDim], 'bfloat16'));
    const [k, v] = [1, 2].map((seed) => roundTo('bfloat16', randomValues(heads * headDim, seed)));
    const tensors = [k!, v!].map((values) => bench.float('bfloat16', [1, heads, headDim], values));
    bench.run(() => kvCacheWrite(cache, tensors[0]!, tensors[1]!, bench.ints('int64', [1], [numBlocks * PAGE_TOKENS - 1])));
    const last = { dtype: 'bfloat16' as const, numKvHeads: heads, headDim, numBlocks: 1, slots: [PAGE_TOKENS - 1] };
    const expected = cacheReference(last, k!, v!).map((x) => (Number.isNaN(x) ? 0 : x)); // fresh memory is zero
    expect(await bench.values(bench.run(() => narrow(cache, 0, numBlocks - 1, 1)))).toEqual(expected);
    await bench.close();
  });

  it('names what does not agree', async () => {
    const bench = new OpBench();
    const zeros = (shape: number[]) => bench.float('float32', shape, new Float64Array(shape.reduce((a, b) => a * b)));
    const cache = zeros([2, 2, 1, 16, 8]);
    const slots = bench.ints('int64', [1], [0]);
    const failing = (fn: () => void, text: string): void =>
      expect(() => bench.run(fn)).toThrow(expect.objectContaining({ code: 'ERR_KVASIR_TENSOR', message: expect.stringContaining(text) }));
    failing(() => kvCacheWrite(cache, zeros([1, 2, 8]), zeros([1, 2, 8]), slots), 'k has numKvHeads 2, expected 1');
    failing(() => kvCacheWrite(zeros([2, 2, 1, 8, 8]), zeros([1, 1, 8]), zeros([1, 1, 8]), slots), 'blockSize must be 16');
    failing(() => kvCacheWrite(zeros([2, 2, 1, 16, 7]), zeros([1, 1, 7]), zeros([1, 1, 7]), slots), 'headDim must be even');
    await bench.close();
  });
});
