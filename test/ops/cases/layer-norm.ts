import type { FloatType } from '../harness';

/** Shapes of LayerNorm; the table serves the tests of every backend. */
export interface LayerNormCase {
  readonly dtype: FloatType;
  readonly numTokens: number;
  readonly hiddenSize: number;
  readonly residual: boolean;
  readonly bias: boolean;
}

export const LAYER_NORM_EPS = 1e-5;

export const LAYER_NORM_CASES: readonly LayerNormCase[] = (['float32', 'float16', 'bfloat16'] as const).flatMap((dtype) =>
  [
    [1, 8],
    [7, 64],
    [83, 768],
    [7, 769],
    [2, 5120],
    [3, 16400],
    [513, 176],
  ].flatMap(([numTokens, hiddenSize]) =>
    [false, true].flatMap((residual) => [false, true].map((bias) => ({ dtype, numTokens: numTokens!, hiddenSize: hiddenSize!, residual, bias }))),
  ),
);

/** float64 reference on values that are already rounded to the dtype; `round` rounds the residual stream to it. */
export function layerNormReference(
  c: Pick<LayerNormCase, 'numTokens' | 'hiddenSize'>,
  x: Float64Array,
  residual: Float64Array | null,
  weight: Float64Array,
  bias: Float64Array | null,
  round: (values: Float64Array) => Float64Array,
): { out: Float64Array; sum: Float64Array } {
  const { numTokens, hiddenSize: h } = c;
  const sum = residual ? round(x.map((v, i) => v + residual[i]!)) : x;
  const out = new Float64Array(numTokens * h);
  for (let t = 0; t < numTokens; t++) {
    const row = sum.subarray(t * h, (t + 1) * h);
    const mean = row.reduce((a, b) => a + b, 0) / h;
    const variance = row.reduce((a, b) => a + (b - mean) ** 2, 0) / h;
    const scale = 1 / Math.sqrt(variance + LAYER_NORM_EPS);
    for (let i = 0; i < h; i++) out[t * h + i] = (row[i]! - mean) * scale * weight[i]! + (bias ? bias[i]! : 0);
  }
  return { out, sum };
}
