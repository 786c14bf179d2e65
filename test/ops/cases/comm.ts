import { encode, type FloatType, randomValues, roundTo } from '../harness';

/** A collective: every rank has `count` elements (of a piece, where there are pieces). The table serves the tests of every backend. */
export interface CommCase {
  readonly size: number;
  readonly dtype: FloatType;
  readonly count: number;
}

const casesOf = (counts: readonly number[]): CommCase[] =>
  [1, 2, 3, 4].flatMap((size) => (['float32', 'float16', 'bfloat16'] as const).flatMap((dtype) => counts.map((count) => ({ size, dtype, count }))));

/** Fewer elements than ranks, an odd number, more than one exchange carries. */
export const COMM_CASES: readonly CommCase[] = casesOf([1, 777, 40_003]);
/** Shares large enough for a ring. */
export const LARGE_COMM_CASES: readonly CommCase[] = casesOf([280_001]).filter((c) => c.size > 1);

/** What a rank brings, rounded to the dtype. */
export function commInput(c: CommCase, rank: number, count = c.count): Float64Array {
  return roundTo(c.dtype, randomValues(count, 11 + rank, 3));
}

/** Sums of equally long inputs, added in float32 by rank and rounded once: the typed array of the dtype. */
export function commSum(dtype: FloatType, inputs: readonly Float64Array[]): NodeJS.TypedArray {
  const sum = Float32Array.from(inputs[0]!);
  for (const input of inputs.slice(1)) for (let i = 0; i < sum.length; i++) sum[i]! += input[i]!;
  return encode(dtype, Float64Array.from(sum));
}
