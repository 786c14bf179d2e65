import type { FloatType } from '../harness';

/** Shapes of RMSNorm; the table serves the tests of every backend and the benchmark. */
export interface NormCase {
  readonly dtype: FloatType;
  readonly numTokens: number;
  readonly hiddenSize: number;
  readonly residual: boolean;
  readonly gemma: boolean;
}

export const NORM_EPS = 1e-5;

export const NORM_CASES: readonly NormCase[] = (['float32', 'float16', 'bfloat16'] as const).flatMap((dtype) =>
  [
    [1, 8],
    [7, 64],
    [83, 768],
    [7, 769],
    [2, 5120],
    [513, 176],
  ].flatMap(([numTokens, hiddenSize]) =>
    [false, true].flatMap((residual) => [false, true].map((gemma) => ({ dtype, numTokens: numTokens!, hiddenSize: hiddenSize!, residual, gemma }))),
  ),
);

/** float64 reference on values that are already rounded to the dtype; `round` rounds where the model's dtype is kept in between. */
export function normReference(
  c: NormCase,
  x: Float64Array,
  residual: Float64Array | null,
  weight: Float64Array,
  round: (values: Float64Array) => Float64Array,
): { out: Float64Array; sum: Float64Array } {
  const { numTokens, hiddenSize: h } = c;
  const sum = residual ? round(x.map((v, i) => v + residual[i]!)) : x;
  const out = new Float64Array(numTokens * h);
  for (let t = 0; t < numTokens; t++) {
    let squares = 0;
    for (let i = 0; i < h; i++) squares += sum[t * h + i]! ** 2;
    const scale = 1 / Math.sqrt(squares / h + NORM_EPS);
    for (let i = 0; i < h; i++) out[t * h + i] = sum[t * h + i]! * scale * (c.gemma ? 1 + weight[i]! : weight[i]!);
  }
  return { out, sum };
}
