import { kvCacheWrite, NO_SCALES, type KvScales } from '../../lib/ops/cache';
import { output } from '../../lib/ops/run';
import type { Tensor } from '../../lib/tensor/tensor';
import { narrow, reshape } from '../../lib/tensor/views';
import { CACHE_CASES, cacheReference, PAGE_TOKENS, pageIndex } from './cases/cache';
import { itOn, OpBench, randomValues, roundTo } from './harness';

/** What the codes of a float8_e4m3 cache stand for. */
async function scaledValues(bench: OpBench, cache: Tensor, { kScale, vScale }: KvScales): Promise<Float64Array> {
  const part = cache.strides[1]!;
  return (await bench.values(cache)).map((code, i) => code * Math.fround(Math.floor(i / part) % 2 === 0 ? kScale : vScale));
}

describe('kvCacheWrite', () => {
  it.each(CACHE_CASES.map((c) => [`${c.dtype}${c.fp8 ? ` to fp8 ${JSON.stringify(c.fp8)}` : ''} ${c.numKvHeads}x${c.headDim}, ${c.slots.length} tokens`, c] as const))('%s', async (_name, c) => {
    const bench = new OpBench();
    const width = c.numKvHeads * c.headDim;
    const tokens = c.slots.length;
    // k and v are parts of merged rows, as a fused projection gives them.
    const merged = roundTo(c.dtype, randomValues(tokens * (2 * width + 6), 1));
    const part = (start: number): Float64Array =>
      Float64Array.from({ length: tokens * width }, (_, i) => merged[Math.floor(i / width) * (2 * width + 6) + start + (i % width)]!);
    const wide = bench.float(c.dtype, [tokens, 2 * width + 6], merged);
    const cache = bench.poisoned(c.fp8 ? 'float8_e4m3' : c.dtype, [c.numBlocks, 2, c.numKvHeads, PAGE_TOKENS, c.headDim]);
    const slots = bench.ints('int64', [tokens], c.slots);
    bench.run(() => {
      const heads = (start: number) => reshape(narrow(wide, 1, start, width), [tokens, c.numKvHeads, c.headDim]);
      kvCacheWrite(cache, heads(4), heads(4 + width), slots, c.fp8);
    });
    const expected = cacheReference(c, part(4), part(4 + width));
    const actual = c.fp8 ? await scaledValues(bench, cache, c.fp8) : await bench.values(cache);
    expect(actual).toHaveLength(expected.length);
    expect(actual.findIndex((value, i) => !Object.is(value, expected[i]))).toBe(-1);
    await bench.close();
  });

  it('rounds to fp8 to nearest, ties to even, cuts to 448 and keeps NaN and signs', async () => {
    const bench = new OpBench();
    const values = [0, -0, 448, 449, 1e30, -Infinity, NaN, 2 ** -9, 2 ** -10, 1.5 * 2 ** -9, -(2 ** -11), 0.0169, 17, 19, 1.0625, -1.1875];
    const expected = [0x00, 0x80, 0x7e, 0x7e, 0x7e, 0xfe, 0x7f, 0x01, 0x00, 0x02, 0x80, 0x09, 0x58, 0x5a, 0x38, 0xba];
    const x = bench.float('float32', [1, 1, 16], Float64Array.from(values));
    const cache = bench.poisoned('float8_e4m3', [1, 2, 1, PAGE_TOKENS, 16]);
    bench.run(() => kvCacheWrite(cache, x, x, bench.ints('int64', [1], [3])));
    const codes = (await cache.read()) as Uint8Array;
    const c = { dtype: 'float32', fp8: NO_SCALES, numKvHeads: 1, headDim: 16, numBlocks: 1, slots: [3] } as const;
    for (const [kind, page] of [['k', 0], ['v', PAGE_TOKENS * 16]] as const)
      expect(expected.map((_, d) => codes[page + pageIndex(c, kind, 3, d)])).toEqual(expected);
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
    const fp8 = bench.poisoned('float8_e4m3', [2, 2, 1, 16, 8]);
    const [k, v] = [zeros([1, 1, 8]), zeros([1, 1, 8])];
    failing(() => kvCacheWrite(cache, k, v, slots, { kScale: 2, vScale: 1 }), 'kScale and vScale must be 1 unless kvCache is float8_e4m3');
    for (const vScale of [0, -1, NaN, Infinity]) failing(() => kvCacheWrite(fp8, k, v, slots, { kScale: 1, vScale }), 'must be finite and above 0');
    failing(() => kvCacheWrite(fp8, k, bench.poisoned('bfloat16', [1, 1, 8]), slots), 'v is bfloat16');
    failing(() => kvCacheWrite(bench.poisoned('bfloat16', [2, 2, 1, 16, 8]), k, v, slots), 'kvCache is bfloat16');
    const codes = bench.poisoned('float8_e4m3', [1, 1, 8]);
    failing(() => kvCacheWrite(fp8, codes, codes, slots), 'k must be float32 or float16 or bfloat16');
    failing(() => kvCacheWrite(zeros([2, 2, 1, 16, 7]), zeros([1, 1, 7]), zeros([1, 1, 7]), slots), 'headDim must be even');
    await bench.close();
  });
});
