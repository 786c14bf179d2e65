import { cast } from '../../lib/ops/copy';
import { normRope, rope } from '../../lib/ops/rope';
import type { Tensor } from '../../lib/tensor/tensor';
import { reshape, split } from '../../lib/tensor/views';
import { NORM_EPS } from './cases/norm';
import { NORM_ROPE_CASES, normedHeads, ROPE_CASES, ROPE_MAX_POSITION, ropeReference } from './cases/rope';
import { forEachIsa, itOn, OpBench, randomValues, relativeL2, roundTo, TOLERANCE } from './harness';

const positionsOf = (numTokens: number): number[] => Array.from({ length: numTokens }, (_, t) => (t * 7 + 3) % ROPE_MAX_POSITION);

/** Columns [from, to) of rows of `width`. */
function columns(values: Float64Array, width: number, from: number, to: number): Float64Array {
  const out = new Float64Array((values.length / width) * (to - from));
  for (let row = 0; row < values.length / width; row++) out.set(values.subarray(row * width + from, row * width + to), row * (to - from));
  return out;
}

describe('rope', () => {
  it.each(ROPE_CASES.map((c) => [JSON.stringify(c), c] as const))('views of a merged projection: %s', async (_name, c) => {
    const sizes = [c.numHeads * c.headDim, c.numKvHeads * c.headDim, c.numKvHeads * c.headDim];
    const width = sizes[0]! + 2 * sizes[1]!;
    const qkv = roundTo(c.dtype, randomValues(c.numTokens * width, 1));
    const cosSin = roundTo('float32', randomValues(ROPE_MAX_POSITION * c.rotaryDim, 2));
    const positions = positionsOf(c.numTokens);
    const q = columns(qkv, width, 0, sizes[0]!);
    const k = columns(qkv, width, sizes[0]!, sizes[0]! + sizes[1]!);
    await forEachIsa(async () => {
      const bench = new OpBench();
      const merged = bench.float(c.dtype, [c.numTokens, width], qkv);
      const table = bench.float('float32', [ROPE_MAX_POSITION, c.rotaryDim], cosSin);
      const at = bench.ints('int32', [c.numTokens], positions);
      bench.run(() => {
        const [qPart, kPart] = split(merged, sizes);
        rope(at, reshape(qPart!, [c.numTokens, c.numHeads, c.headDim]), reshape(kPart!, [c.numTokens, c.numKvHeads, c.headDim]), table, c.isNeox);
      });
      const result = await bench.values(merged);
      const qOut = columns(result, width, 0, sizes[0]!);
      const kOut = columns(result, width, sizes[0]!, sizes[0]! + sizes[1]!);
      expect(relativeL2(qOut, ropeReference(c, q, c.numHeads, positions, cosSin))).toBeLessThan(TOLERANCE[c.dtype]);
      expect(relativeL2(kOut, ropeReference(c, k, c.numKvHeads, positions, cosSin))).toBeLessThan(TOLERANCE[c.dtype]);
      const rest = (values: Float64Array): Float64Array => columns(values, width, sizes[0]! + sizes[1]!, width);
      expect(rest(result)).toEqual(rest(qkv));
      await bench.close();
    });
  });

  it('takes int64 positions and no k, and a token rotates the same alone and in a batch', async () => {
    const bench = new OpBench();
    const values = randomValues(9 * 2 * 24, 3);
    const table = bench.float('float32', [ROPE_MAX_POSITION, 24], randomValues(ROPE_MAX_POSITION * 24, 4));
    const all = bench.float('bfloat16', [9, 2, 24], values);
    const one = bench.float('bfloat16', [1, 2, 24], values.slice(5 * 48, 6 * 48));
    const positions = positionsOf(9);
    bench.run(() => rope(bench.ints('int64', [9], positions), all, null, table, true));
    bench.run(() => rope(bench.ints('int32', [1], positions.slice(5, 6)), one, null, table, true));
    expect((await bench.values(all)).slice(5 * 48, 6 * 48)).toEqual(await bench.values(one));
    await bench.close();
  });

  /** Two tokens of random numbers, rotated at positions 1 and `position`; a fence has yet to come. */
  const rotateAt = (bench: OpBench, dtype: 'int32' | 'int64', position: number): { q: Tensor; x: Float64Array } => {
    const x = roundTo('bfloat16', randomValues(2 * 16, 5));
    const q = bench.float('bfloat16', [2, 1, 16], x);
    const table = bench.float('float32', [ROPE_MAX_POSITION, 16], randomValues(ROPE_MAX_POSITION * 16, 6));
    bench.run(() => rope(bench.ints(dtype, [2], [1, position]), q, null, table, true));
    return { q, x };
  };

  itOn('cpu').each([-1, ROPE_MAX_POSITION])('rejects position %d at the next fence and rotates nothing', async (position) => {
    const bench = new OpBench();
    const { q, x } = rotateAt(bench, 'int32', position);
    await expect(bench.device.synchronize()).rejects.toMatchObject({ code: 'ERR_KVASIR_TENSOR' });
    expect(await bench.values(q)).toEqual(x);
    await bench.close();
  });

  // A kernel reports no errors, and the rows that pad a batch must not fail.
  itOn('cuda').each([
    ['int32', -1],
    ['int32', ROPE_MAX_POSITION],
    ['int64', 2 ** 32 + 1],
  ] as const)('leaves a token at %s position %d as it is', async (dtype, position) => {
    const bench = new OpBench();
    const { q, x } = rotateAt(bench, dtype, position);
    const result = await bench.values(q);
    expect(result.slice(16)).toEqual(x.slice(16));
    expect(result.slice(0, 16)).not.toEqual(x.slice(0, 16));
    await bench.close();
  });

  it('rotates rows that do not start at 16 bytes as it does aligned ones', async () => {
    const bench = new OpBench();
    const values = roundTo('float16', randomValues(5 * 2 * 32, 7));
    const table = bench.float('float32', [ROPE_MAX_POSITION, 32], randomValues(ROPE_MAX_POSITION * 32, 8));
    const at = bench.ints('int32', [5], positionsOf(5));
    const aligned = bench.float('float16', [5, 2, 32], values);
    const wide = bench.float('float16', [5 * 65 + 1], Float64Array.from({ length: 5 * 65 + 1 }, (_, i) => values[Math.floor((i - 1) / 65) * 64 + ((i - 1) % 65)] ?? 0));
    const shifted = bench.view(wide, 1, [5, 2, 32], [65, 32, 1]);
    bench.run(() => {
      rope(at, aligned, null, table, false);
      rope(at, shifted, null, table, false);
    });
    const back = bench.run(() => cast(shifted, 'float16'));
    expect(await bench.values(back)).toEqual(await bench.values(aligned));
    await bench.close();
  });

  it('rejects a table that is wider than a head', async () => {
    const bench = new OpBench();
    const q = bench.float('float32', [1, 1, 8], randomValues(8, 1));
    const table = bench.float('float32', [4, 10], randomValues(40, 1));
    expect(() => bench.run(() => rope(bench.ints('int32', [1], [0]), q, null, table, true))).toThrow(
      expect.objectContaining({ code: 'ERR_KVASIR_TENSOR' }),
    );
    await bench.close();
  });
});

describe('normRope', () => {
  it.each(NORM_ROPE_CASES.map((c) => [JSON.stringify(c), c] as const))('views of a merged projection: %s', async (_name, c) => {
    const sizes = [c.numHeads * c.headDim, c.numKvHeads * c.headDim, c.numKvHeads * c.headDim] as const;
    const width = sizes[0] + 2 * sizes[1];
    const round = (values: Float64Array): Float64Array => roundTo(c.dtype, values);
    // Heads of very different sizes, which the norm has to bring to one.
    const qkv = round(randomValues(c.numTokens * width, 1).map((v, i) => v * 4 ** (Math.floor(i / c.headDim) % 5)));
    const weights = [round(randomValues(c.headDim, 2)), round(randomValues(c.headDim, 3))] as const;
    const cosSin = roundTo('float32', randomValues(ROPE_MAX_POSITION * c.rotaryDim, 4));
    const positions = positionsOf(c.numTokens);
    const expected = (from: number, heads: number, weight: Float64Array): Float64Array => {
      const before = normedHeads(c, columns(qkv, width, from, from + heads * c.headDim), heads, weight);
      return ropeReference(c, before, heads, positions, cosSin);
    };
    const [q, k] = [expected(0, c.numHeads, weights[0]), expected(sizes[0], c.numKvHeads, weights[1])];
    await forEachIsa(async () => {
      const bench = new OpBench();
      const merged = bench.float(c.dtype, [c.numTokens, width], qkv);
      const table = bench.float('float32', [ROPE_MAX_POSITION, c.rotaryDim], cosSin);
      const [qWeight, kWeight] = [bench.float(c.dtype, [c.headDim], weights[0]), bench.float(c.dtype, [c.headDim], weights[1])];
      bench.run(() => {
        const [qPart, kPart] = split(merged, sizes).map((part) => reshape(part, [c.numTokens, part.size(1) / c.headDim, c.headDim]));
        normRope(bench.ints('int32', [c.numTokens], positions), qPart!, kPart!, { qWeight, kWeight, eps: NORM_EPS, gemma: c.gemma }, table, c.isNeox);
      });
      const result = await bench.values(merged);
      expect(relativeL2(columns(result, width, 0, sizes[0]), q)).toBeLessThan(TOLERANCE[c.dtype]);
      expect(relativeL2(columns(result, width, sizes[0], sizes[0] + sizes[1]), k)).toBeLessThan(TOLERANCE[c.dtype]);
      const rest = (values: Float64Array): Float64Array => columns(values, width, sizes[0] + sizes[1], width);
      expect(rest(result)).toEqual(rest(qkv));
      await bench.close();
    });
  });

  it.each(['float32', 'float16', 'bfloat16'] as const)('is the same bit for bit in one batch and another: %s', async (dtype) => {
    const bench = new OpBench();
    const norms = { qWeight: bench.float(dtype, [128], randomValues(128, 2)), kWeight: bench.float(dtype, [128], randomValues(128, 3)), eps: NORM_EPS, gemma: false };
    const table = bench.float('float32', [ROPE_MAX_POSITION, 128], randomValues(ROPE_MAX_POSITION * 128, 4));
    const rotated = async (from: number, to: number): Promise<readonly [Float64Array, Float64Array]> => {
      const q = bench.float(dtype, [to - from, 4, 128], randomValues(9 * 512, 5).slice(from * 512, to * 512));
      const k = bench.float(dtype, [to - from, 1, 128], randomValues(9 * 128, 6).slice(from * 128, to * 128));
      bench.run(() => normRope(bench.ints('int32', [to - from], positionsOf(9).slice(from, to)), q, k, norms, table, true));
      return [await bench.values(q), await bench.values(k)];
    };
    const [[q, k], [oneQ, oneK]] = [await rotated(0, 9), await rotated(5, 6)];
    expect([oneQ, oneK]).toEqual([q.slice(5 * 512, 6 * 512), k.slice(5 * 128, 6 * 128)]);
    await bench.close();
  });

  it.each([
    ['a weight of another size', 'qWeight', 'float32', 12],
    ['a weight of another dtype', 'kWeight', 'bfloat16', 8],
  ] as const)('rejects %s', async (_name, which, dtype, size) => {
    const bench = new OpBench();
    const heads = (): Tensor => bench.float('float32', [1, 1, 8], randomValues(8, 1));
    const norms = { qWeight: bench.float('float32', [8], randomValues(8, 2)), kWeight: bench.float('float32', [8], randomValues(8, 3)), eps: NORM_EPS, gemma: false };
    const table = bench.float('float32', [4, 8], randomValues(32, 1));
    const wrong = { ...norms, [which]: bench.float(dtype, [size], randomValues(size, 4)) };
    expect(() => bench.run(() => normRope(bench.ints('int32', [1], [0]), heads(), heads(), wrong, table, true))).toThrow(
      expect.objectContaining({ code: 'ERR_KVASIR_TENSOR' }),
    );
    await bench.close();
  });
});
