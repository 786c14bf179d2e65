import { roundTo, type FloatType } from '../harness';
import { normReference } from './norm';

export interface RopeCase {
  readonly dtype: FloatType;
  readonly numTokens: number;
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly rotaryDim: number;
  readonly isNeox: boolean;
}

export const ROPE_MAX_POSITION = 64;

export const ROPE_CASES: readonly RopeCase[] = (['float32', 'float16', 'bfloat16'] as const).flatMap((dtype) =>
  [
    [1, 4, 2, 128, 128],
    [83, 2, 1, 64, 64],
    [5, 3, 3, 80, 32],
    [3, 2, 1, 22, 22],
    [4, 1, 1, 8, 2],
    [300, 4, 4, 96, 48],
  ].flatMap(([numTokens, numHeads, numKvHeads, headDim, rotaryDim]) =>
    [true, false].map((isNeox) => ({
      dtype,
      numTokens: numTokens!,
      numHeads: numHeads!,
      numKvHeads: numKvHeads!,
      headDim: headDim!,
      rotaryDim: rotaryDim!,
      isNeox,
    })),
  ),
);

/** normRope: a warp or less of threads per head, parts that do not rotate, rows that are no whole vectors. */
export const NORM_ROPE_CASES: readonly (RopeCase & { readonly gemma: boolean })[] = (['float32', 'float16', 'bfloat16'] as const).flatMap((dtype) =>
  (
    [
      [1, 32, 8, 128, 128, true],
      [83, 2, 1, 64, 64, true],
      [5, 3, 3, 80, 32, true],
      [3, 2, 1, 22, 22, true],
      [2, 3, 1, 260, 260, false],
      [300, 4, 4, 96, 48, false],
      [7, 2, 2, 256, 256, true],
    ] as const
  ).map(([numTokens, numHeads, numKvHeads, headDim, rotaryDim, isNeox], i) => ({ dtype, numTokens, numHeads, numKvHeads, headDim, rotaryDim, isNeox, gemma: i % 3 === 1 })),
);

/**
 * RMSNorm of heads [numTokens, heads, headDim] in float64, rounded to the dtype where a model keeps it: the normalised value before the
 * weight (but for Gemma), and the product, which is what rotates.
 */
export function normedHeads(c: RopeCase & { readonly gemma?: boolean }, x: Float64Array, heads: number, weight: Float64Array): Float64Array {
  const { dtype, gemma = false } = c;
  const shape = { dtype, numTokens: c.numTokens * heads, hiddenSize: c.headDim, residual: false, gemma };
  const scaled = normReference(shape, x, null, gemma ? weight : weight.map(() => 1), (values) => values).out;
  return roundTo(dtype, gemma ? scaled : roundTo(dtype, scaled).map((v, i) => v * weight[i % c.headDim]!));
}

/** float64 reference. x [numTokens, heads, headDim]; cosSin [maxPosition, rotaryDim]. */
export function ropeReference(c: RopeCase, x: Float64Array, heads: number, positions: readonly number[], cosSin: Float64Array): Float64Array {
  const out = x.slice();
  const half = c.rotaryDim / 2;
  for (let t = 0; t < c.numTokens; t++)
    for (let h = 0; h < heads; h++)
      for (let i = 0; i < half; i++) {
        const base = (t * heads + h) * c.headDim;
        const first = base + (c.isNeox ? i : 2 * i);
        const second = base + (c.isNeox ? i + half : 2 * i + 1);
        const cos = cosSin[positions[t]! * c.rotaryDim + i]!;
        const sin = cosSin[positions[t]! * c.rotaryDim + half + i]!;
        out[first] = x[first]! * cos - x[second]! * sin;
        out[second] = x[second]! * cos + x[first]! * sin;
      }
  return out;
}
