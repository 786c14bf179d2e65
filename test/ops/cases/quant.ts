import { roundTo, type FloatType } from '../harness';

/** Quantized linear layers; the table serves the tests of every backend. */
export interface QuantCase {
  readonly weight: 'int4' | 'int8' | 'fp8';
  readonly dtype: FloatType;
  readonly m: number;
  readonly n: number;
  readonly k: number;
  /** Inputs per scale; -1: all. Of fp8: blockK. */
  readonly group: number;
  /** Outputs per scale; 1 but for fp8. */
  readonly blockN: number;
  readonly scaleType: FloatType;
  /** int4 with its own zero points, or 8 everywhere. */
  readonly zeros: boolean;
  readonly dynamic: boolean;
  readonly packed: boolean;
  readonly bias: 'none' | 'same' | 'float32';
  /** Rows of x and out with gaps between them. */
  readonly strided: boolean;
  readonly outFloat32: boolean;
}

const DTYPES = ['bfloat16', 'float16', 'float32'] as const;
const BIASES = ['none', 'same', 'float32'] as const;

/** [m, n, k, group]: every tile height, rows around a block of 32, groups of one and of several chunks; 128 and 352 with vocabulary 105. */
const INT_SHAPES: readonly (readonly [number, number, number, number])[] = [
  [1, 1, 8, -1], [1, 31, 64, 32], [1, 105, 128, 32], [1, 64, 352, 32], [1, 352, 128, 64], [1, 128, 352, -1], [1, 512, 1024, 128],
  [2, 33, 96, 32], [3, 64, 128, -1], [4, 128, 352, 32], [5, 65, 384, 128], [6, 352, 128, 32], [7, 105, 128, 128], [7, 100, 600, 200],
  [16, 64, 704, 64], [33, 128, 352, 88], [50, 63, 72, 24], [200, 96, 256, 32], [200, 105, 128, -1], [13, 40, 1032, -1], [3, 37, 40, 8],
];

/** [m, n, k, blockN, blockK]: a scale per row, per square block with short ones at the ends, per tensor. */
const FP8_SHAPES: readonly (readonly [number, number, number, number, number])[] = [
  [1, 1, 4, 1, -1], [1, 105, 128, 1, -1], [1, 352, 128, 128, 128], [1, 128, 352, 128, 128], [1, 512, 1024, 1, -1], [2, 33, 96, 1, -1],
  [3, 300, 300, 128, 128], [4, 128, 352, 16, 64], [5, 65, 384, 65, -1], [6, 352, 128, 1, 32], [7, 105, 128, 1, -1], [33, 128, 352, 64, 128],
  [50, 63, 72, 1, -1], [200, 96, 256, 128, 128], [13, 40, 1032, 1, -1], [6, 70, 13, 1, -1], [2, 65, 514, 128, 128],
];

/** What takes turns so that all pairs occur. */
const turns = (turn: number): Pick<QuantCase, 'bias' | 'strided' | 'outFloat32'> => ({
  bias: BIASES[turn % 3]!,
  strided: turn % 2 === 1,
  outFloat32: turn % 5 > 2,
});

export const INT_CASES: readonly QuantCase[] = (['int4', 'int8'] as const).flatMap((weight, w) =>
  DTYPES.flatMap((dtype, d) =>
    INT_SHAPES.flatMap(([m, n, k, group], i) =>
      [false, true]
        .filter((dynamic) => !dynamic || dtype !== 'float32' || i < 2)
        .map((dynamic): QuantCase => {
          const turn = i + d + w + Number(dynamic);
          const common = { weight, dtype, m, n, k, group, blockN: 1, scaleType: DTYPES[(turn + d) % 3]!, dynamic, ...turns(turn) };
          return { ...common, zeros: weight === 'int4' && turn % 2 === 0, packed: turn % 7 !== 6 };
        }),
    ),
  ),
);

export const FP8_CASES: readonly QuantCase[] = DTYPES.flatMap((dtype, d) =>
  FP8_SHAPES.map(([m, n, k, blockN, blockK], i): QuantCase => {
    const turn = i + d;
    const packed = k % 4 === 0 && turn % 6 !== 5;
    return { weight: 'fp8', dtype, m, n, k, group: blockK, blockN, scaleType: 'float32', zeros: false, dynamic: false, packed, ...turns(turn) };
  }),
);

/** What a GPU treats differently: batches beyond 16 and 64 tokens, many tiles, scales and codes split among warps. [m, n, k, group] */
const GPU_SHAPES: readonly (readonly [number, number, number, number])[] = [
  [1, 4096, 4096, 128], [1, 528, 2080, -1], [8, 200, 1024, 32], [9, 200, 1024, 64], [16, 200, 1152, 128], [17, 136, 512, 256], [64, 100, 512, -1],
  [65, 100, 512, 128], [65, 200, 1056, -1], [130, 130, 448, 64], [300, 5200, 192, 32], [300, 5136, 192, -1],
];

/** float8 blocks of the shapes take turns: a scale per row, or 128 x group. */
export const GPU_CASES: readonly QuantCase[] = (['int4', 'int8', 'fp8'] as const).flatMap((weight, w) =>
  (['bfloat16', 'float16'] as const).flatMap((dtype, d) =>
    GPU_SHAPES.map(([m, n, k, group], i): QuantCase => {
      const turn = i + d + w;
      const scaleType = weight === 'fp8' ? 'float32' : DTYPES[turn % 3]!;
      const common = { weight, dtype, m, n, k, group, blockN: weight === 'fp8' && group !== -1 ? 128 : 1, scaleType, ...turns(turn) };
      return { ...common, zeros: weight === 'int4' && turn % 2 === 0, dynamic: weight === 'int8' && group === -1, packed: turn % 3 !== 0 };
    }),
  ),
);

/** Inner sizes without a packed form. */
export const UNPACKED_CASES: readonly QuantCase[] = DTYPES.flatMap((dtype) =>
  (['int4', 'int8'] as const).flatMap((weight) =>
    [false, true].map((dynamic): QuantCase => {
      const k = weight === 'int4' ? 14 : 13;
      return { weight, dtype, m: 7, n: 70, k, group: -1, blockN: 1, scaleType: dtype, zeros: false, dynamic, packed: false, ...turns(1) };
    }),
  ),
);

/** The number an e4m3 code (fn: no infinities) stands for. */
export function fromFp8(code: number): number {
  const sign = code & 0x80 ? -1 : 1;
  const exponent = (code >> 3) & 15;
  const mantissa = code & 7;
  if (exponent === 15 && mantissa === 7) return NaN;
  return exponent === 0 ? sign * mantissa * 2 ** -9 : sign * (1 + mantissa / 8) * 2 ** (exponent - 7);
}

/** The number of each e4m3 code. */
const FP8_VALUES = Float64Array.from({ length: 256 }, (_, code) => fromFp8(code));

/** The nearest e4m3 code, the even one of two; magnitudes are at most 448. */
export function toFp8(value: number): number {
  const negative = value < 0 || Object.is(value, -0);
  const size = negative ? -value : value;
  let best = 0;
  for (let code = 1; code < 127; code++) {
    const [a, b] = [FP8_VALUES[code]! - size, FP8_VALUES[best]! - size];
    const difference = (a < 0 ? -a : a) - (b < 0 ? -b : b);
    if (difference < 0 || (difference === 0 && code % 2 === 0)) best = code;
  }
  return (negative ? 0x80 : 0) | best;
}

export interface QuantWeights {
  /** Canonical storage. */
  readonly codes: Uint8Array | Int8Array;
  readonly scales: Float64Array;
  readonly zeros: Uint8Array | null;
  readonly groups: number;
  /** [n, k] as float64. */
  readonly values: Float64Array;
}

/** Looking a global up takes longer in a test than this multiplication. */
const { imul } = Math;

/** Deterministic integers in [0, 2^32). */
export function randomInts(count: number, seed: number): Uint32Array {
  let state = (seed * 2654435761 + 1) >>> 0;
  const values = new Uint32Array(count);
  for (let i = 0; i < count; i++) {
    state = (imul(state, 1664525) + 1013904223) >>> 0;
    values[i] = (state ^ (state >>> 15)) >>> 0;
  }
  return values;
}

/** A code 0..15 of canonical int4 storage. */
export const nibbleAt = (codes: ArrayLike<number>, row: number, k: number, inputs: number): number => (codes[row * (inputs / 2) + (k >> 1)]! >> ((k & 1) * 4)) & 15;

/** Weights have millions of elements, and a call for each of them takes longer than a GPU takes for everything: plain loops. */
export function randomWeights(c: Pick<QuantCase, 'weight' | 'n' | 'k' | 'group' | 'blockN' | 'scaleType' | 'zeros'>, seed: number): QuantWeights {
  const { n, k, weight, blockN } = c;
  const group = c.group === -1 ? k : c.group;
  const groups = Math.ceil(k / group);
  const bytes = new Uint8Array(randomInts(weight === 'int4' ? (n * k) / 2 : n * k, seed)); // their low bytes
  if (weight === 'fp8') for (let i = 0; i < bytes.length; i++) if ((bytes[i]! & 127) === 127) bytes[i]! -= 1;
  const codes = weight === 'int8' ? Int8Array.from(bytes) : bytes;
  const scaleRows = Math.ceil(n / blockN);
  const scales = roundTo(c.scaleType, Float64Array.from(randomInts(scaleRows * groups, seed + 1), (v) => 0.004 + (v % 1000) / 1e5));
  const zeros = c.zeros ? Uint8Array.from(randomInts(n * groups, seed + 2), (v) => v % 17) : null;
  return { codes, scales, zeros, groups, values: weightValues(c, codes, scales, zeros) };
}

/** [n, k] as float64. */
function weightValues(c: Pick<QuantCase, 'weight' | 'n' | 'k' | 'group' | 'blockN'>, codes: Uint8Array | Int8Array, scales: Float64Array, zeros: Uint8Array | null): Float64Array {
  const { weight, n, k, blockN } = c;
  const group = c.group === -1 ? k : c.group;
  const groups = Math.ceil(k / group);
  const values = new Float64Array(n * k);
  for (let row = 0; row < n; row++)
    for (let g = 0; g < groups; g++) {
      const scale = scales[Math.floor(row / blockN) * groups + g]!;
      const zero = zeros === null ? 8 : zeros[row * groups + g]!;
      const [begin, end] = [row * k + g * group, row * k + Math.min(k, (g + 1) * group)];
      if (weight === 'int4') for (let i = begin; i < end; i++) values[i] = (((codes[i >> 1]! >> ((i & 1) * 4)) & 15) - zero) * scale;
      else if (weight === 'fp8') for (let i = begin; i < end; i++) values[i] = FP8_VALUES[codes[i]!]! * scale;
      else for (let i = begin; i < end; i++) values[i] = codes[i]! * scale;
    }
  return values;
}

/** x rounded to int8 with one scale per row and `most` inputs of a group, or as many whole groups as that holds, as float32 arithmetic does it. */
export function roundedToInt8(x: Float64Array, m: number, k: number, group: number, most: number): Float64Array {
  const out = new Float64Array(x.length);
  const extent = group < most ? group * Math.floor(most / group) : group;
  for (let row = 0; row < m; row++)
    for (let first = 0; first < k; first += extent)
      for (let at = first; at < Math.min(k, first + extent); at += most) {
        const part = x.subarray(row * k + at, row * k + Math.min(at + most, first + extent, k));
        const largest = part.reduce((a, b) => Math.max(a, Math.abs(b)), 0);
        const inverse = Math.fround(127 / largest);
        const scale = Math.fround(largest * Math.fround(1 / 127));
        part.forEach((v, i) => (out[row * k + at + i] = largest === 0 ? 0 : roundEven(Math.fround(v * inverse)) * scale));
      }
  return out;
}

/** x rounded to fp8 with one scale per row, or with a given one, as float32 arithmetic does it. */
export function roundedToFp8(x: Float64Array, m: number, k: number, fixedScale: number | null): Float64Array {
  const out = new Float64Array(x.length);
  for (let row = 0; row < m; row++) {
    const line = x.subarray(row * k, (row + 1) * k);
    const largest = line.reduce((a, b) => Math.max(a, Math.abs(b)), 0);
    const scale = Math.fround(fixedScale ?? (largest === 0 ? 1 : largest / 448));
    line.forEach((v, i) => (out[row * k + i] = fromFp8(toFp8(Math.max(-448, Math.min(448, Math.fround(v / scale))))) * scale));
  }
  return out;
}

function roundEven(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 !== 0) ? floor + 1 : floor;
}
