import type { DType } from '../../../lib/config/vllm';
import { contiguousStrides, numElements } from '../../../lib/tensor/tensor';
import { type FloatType, roundTo } from '../harness';

/** How elements lie in a storage: strides in elements, `offset` elements from its start. */
export interface CopyLayout {
  readonly strides: readonly number[];
  readonly offset: number;
}

export interface CopyCase {
  readonly name: string;
  readonly shape: readonly number[];
  readonly x: CopyLayout;
  readonly out: CopyLayout;
}

const dense = (shape: readonly number[], offset = 0): CopyLayout => ({ strides: contiguousStrides(shape), offset });

/** Strides of every kind: whole, rows with gaps, odd starts and widths, transposed, broadcast, up to five dimensions. */
export const COPY_CASES: readonly CopyCase[] = [
  { name: 'a scalar', shape: [], x: dense([]), out: dense([], 3) },
  { name: 'one dense row', shape: [4099], x: dense([4099]), out: dense([4099]) },
  { name: 'whole matrices', shape: [37, 64], x: dense([37, 64]), out: dense([37, 64]) },
  { name: 'starts that are not aligned', shape: [5, 64], x: dense([5, 64], 1), out: dense([5, 64], 3) },
  { name: 'columns of a wider matrix', shape: [83, 48], x: { strides: [160, 1], offset: 32 }, out: dense([83, 48]) },
  { name: 'columns of a wider matrix, odd', shape: [19, 33], x: { strides: [101, 1], offset: 7 }, out: { strides: [35, 1], offset: 1 } },
  { name: 'into columns of a wider matrix', shape: [300, 16], x: dense([300, 16]), out: { strides: [80, 1], offset: 16 } },
  { name: 'a transposed matrix', shape: [33, 70], x: { strides: [1, 33], offset: 0 }, out: dense([33, 70]) },
  { name: 'into a transposed matrix', shape: [33, 70], x: dense([33, 70]), out: { strides: [1, 33], offset: 0 } },
  { name: 'every third element', shape: [1000], x: { strides: [3], offset: 2 }, out: { strides: [2], offset: 1 } },
  { name: 'one row for all', shape: [9, 40], x: { strides: [0, 1], offset: 8 }, out: dense([9, 40]) },
  { name: 'heads before tokens', shape: [7, 3, 24], x: { strides: [24, 7 * 24, 1], offset: 0 }, out: dense([7, 3, 24]) },
  { name: 'five dimensions', shape: [2, 3, 4, 5, 8], x: { strides: [2000, 40, 9 * 40, 8, 1], offset: 16 }, out: dense([2, 3, 4, 5, 8]) },
  { name: 'five dimensions with gaps on both sides', shape: [3, 2, 2, 3, 5], x: { strides: [500, 7, 50, 15, 2], offset: 1 }, out: { strides: [1, 3, 7, 15, 60], offset: 2 } },
  { name: 'dimensions of size 1', shape: [1, 6, 1, 32, 1], x: { strides: [7, 64, 5, 1, 9], offset: 0 }, out: dense([1, 6, 1, 32, 1]) },
  { name: 'nothing', shape: [3, 0, 2], x: dense([3, 0, 2]), out: dense([3, 0, 2]) },
];

/** Every pair of dtypes that may be converted, and one of each that is only moved. */
export const COPY_TYPES: readonly (readonly [from: DType, to: DType])[] = [
  ...(['float32', 'float16', 'bfloat16'] as const).flatMap((to) => (['float32', 'float16', 'bfloat16', 'float8_e4m3'] as const).map((from) => [from, to] as const)),
  ['float8_e4m3', 'float8_e4m3'],
  ['int32', 'int32'],
  ['int64', 'int64'],
  ['int32', 'int64'],
  ['int64', 'int32'],
  ['uint8', 'uint8'],
  ['int8', 'int8'],
];

/** Elements that a storage needs so that a layout fits in. */
export function storageElements(shape: readonly number[], layout: CopyLayout): number {
  if (numElements(shape) === 0) return layout.offset;
  return layout.offset + 1 + shape.reduce((sum, size, i) => sum + (size - 1) * layout.strides[i]!, 0);
}

/** The storage indices of a layout's elements, in row-major order of the shape. */
export function elementIndices(shape: readonly number[], layout: CopyLayout): number[] {
  return Array.from({ length: numElements(shape) }, (_, i) => {
    let rest = i;
    let at = layout.offset;
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      at += (rest % shape[axis]!) * layout.strides[axis]!;
      rest = Math.floor(rest / shape[axis]!);
    }
    return at;
  });
}

/** OCP FP8 e4m3fn: no infinities, 0x7f and 0xff are NaN. */
export function fromFloat8(bits: number): number {
  const [sign, exponent, mantissa] = [bits & 0x80 ? -1 : 1, (bits >> 3) & 15, bits & 7];
  if (exponent === 15 && mantissa === 7) return NaN;
  return exponent === 0 ? sign * mantissa * 2 ** -9 : sign * (1 + mantissa / 8) * 2 ** (exponent - 7);
}

/** Element `index` of fillRandom: the splitmix64 finaliser of (seed, index) as a fraction of 2^31, times scale, in float32, then rounded. */
export function randomReference(dtype: FloatType, seed: bigint, index: bigint, scale: number): number {
  const wrap = (x: bigint): bigint => BigInt.asUintN(64, x);
  let z = wrap(index + seed * 0x9e3779b97f4a7c15n);
  z = wrap((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n);
  z = wrap((z ^ (z >> 27n)) * 0x94d049bb133111ebn);
  const unit = Math.fround(Number(BigInt.asIntN(32, z >> 32n))) * 2 ** -31;
  return roundTo(dtype, Float64Array.of(Math.fround(unit * Math.fround(scale))))[0]!;
}
