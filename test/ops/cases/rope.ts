import type { FloatType } from '../harness';

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
