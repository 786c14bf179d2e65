import type { FloatType } from '../harness';

/** Linear layers; the table serves the tests of every backend and the benchmark. */
export interface LinearCase {
  readonly dtype: FloatType;
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly packed: boolean;
  readonly bias: 'none' | 'same' | 'float32';
  /** Rows of x and out with gaps between them. */
  readonly strided: boolean;
  readonly outFloat32: boolean;
}

const DTYPES = ['float32', 'float16', 'bfloat16'] as const;
const BIASES = ['none', 'same', 'float32'] as const;

/** [m, n, k]: every tile height, sizes around a block of 64 rows, inner sizes below and above one piece. */
const SHAPES: readonly (readonly [number, number, number])[] = [
  [1, 1, 2], [1, 8, 8], [1, 63, 64], [1, 64, 172], [1, 512, 704], [1, 2048, 172], [1, 172, 2048],
  [2, 65, 64], [3, 172, 172], [4, 64, 704], [5, 63, 8], [6, 65, 172], [7, 512, 64], [7, 1, 704],
  [16, 172, 704], [33, 65, 704], [33, 8, 2], [64, 172, 64], [64, 65, 2048], [513, 65, 172], [513, 8, 64],
];

/** Each shape in each dtype; bias, strides, layout and output type take turns so that all pairs occur. */
export const LINEAR_CASES: readonly LinearCase[] = DTYPES.flatMap((dtype, d) =>
  SHAPES.map(([m, n, k], i) => {
    const turn = i + d;
    return { dtype, m, n, k, packed: turn % 4 !== 3, bias: BIASES[turn % 3]!, strided: turn % 2 === 1, outFloat32: turn % 5 === 4 };
  }),
);

/** An odd inner size has no bfloat16 pairs: such a weight stays as it is. */
export const UNPACKED_CASES: readonly LinearCase[] = DTYPES.map((dtype) => ({
  dtype, m: 7, n: 70, k: 13, packed: false, bias: 'same', strided: true, outFloat32: false,
}));

/** Sizes that vector and library kernels take, around the numbers of rows where a GPU changes from one kernel to the next. */
export const ALIGNED_CASES: readonly LinearCase[] = DTYPES.flatMap((dtype, d) =>
  ([[1, 72, 4096], [2, 512, 264], [3, 512, 704], [16, 64, 512], [17, 320, 128], [64, 136, 256], [65, 128, 64], [300, 192, 256]] as const).map(([m, n, k], i) => {
    const turn = i + d;
    return { dtype, m, n, k, packed: n % 64 === 0, bias: BIASES[turn % 3]!, strided: turn % 2 === 1, outFloat32: turn % 4 === 2 };
  }),
);

/** out[i, j] = sum over k of x[i, k] weight[j, k], plus bias[j]: float64, on values that are already rounded to the dtype. */
export function linearReference(c: { m: number; n: number; k: number }, x: Float64Array, weight: Float64Array, bias: Float64Array | null): Float64Array {
  const { m, n, k } = c;
  const out = new Float64Array(m * n);
  for (let i = 0; i < m; i++)
    for (let j = 0; j < n; j++) {
      let sum = bias ? bias[j]! : 0;
      for (let l = 0, a = i * k, b = j * k; l < k; l++) sum += x[a + l]! * weight[b + l]!;
      out[i * n + j] = sum;
    }
  return out;
}
