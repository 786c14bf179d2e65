import type { DType } from '../../lib/config/vllm';
import { cast, copyInto, fill, fillRandom, gatherRows } from '../../lib/ops/copy';
import { DTYPE_BYTES, viewOf } from '../../lib/tensor/dtype';
import type { Tensor } from '../../lib/tensor/tensor';
import { narrow } from '../../lib/tensor/views';
import { COPY_CASES, COPY_TYPES, type CopyLayout, elementIndices, fromFloat8, randomReference, storageElements } from './cases/copy';
import { encode, type FloatType, fromBf16Bits, fromF16Bits, OpBench, randomValues, roundTo } from './harness';

const FLOATS: readonly FloatType[] = ['float32', 'float16', 'bfloat16'];
const isFloat = (dtype: DType): dtype is FloatType => (FLOATS as readonly DType[]).includes(dtype);

/** Numbers of a dtype as typed array elements: rounding ties, overflow and subnormals of the narrower types among them. */
function sample(dtype: DType, count: number): NodeJS.TypedArray {
  const special = [0, -0, 65519.99, 65520, -1e30, 3.3e38, 1e-6, -3e-8, 2 ** -25, 2 ** -133, 1.00390625, 1.01171875, 2049, Infinity, -Infinity];
  if (isFloat(dtype)) {
    const values = randomValues(count, 3, 100);
    special.forEach((v, i) => i * 2 < count && (values[i * 2] = v));
    return encode(dtype, values);
  }
  if (dtype === 'int32') return Int32Array.from({ length: count }, (_, i) => Math.imul(i + 1, 2654435761));
  if (dtype === 'int64') return BigInt64Array.from({ length: count }, (_, i) => BigInt.asIntN(64, BigInt(i + 1) * 0x9e3779b97f4a7c15n));
  const bytes = Uint8Array.from({ length: count }, (_, i) => (i * 37) % 256);
  return dtype === 'int8' ? new Int8Array(bytes.buffer) : bytes;
}

const numberOf = (dtype: DType, element: number): number => {
  if (dtype === 'float16') return fromF16Bits(element);
  if (dtype === 'bfloat16') return fromBf16Bits(element);
  return dtype === 'float8_e4m3' ? fromFloat8(element) : element;
};

/** The elements of `to` after converting typed array elements of `from`. */
function convert(from: DType, to: DType, elements: NodeJS.TypedArray): NodeJS.TypedArray {
  if (from === to) return elements;
  if (to === 'int64') return BigInt64Array.from(elements as Int32Array, BigInt);
  if (to === 'int32') return Int32Array.from(elements as BigInt64Array, (v) => Number(BigInt.asIntN(32, v)));
  return encode(to as FloatType, Float64Array.from(elements as ArrayLike<number>, (v) => numberOf(from, v)));
}

/** NaNs may differ in their bits. */
function comparable(dtype: DType, elements: NodeJS.TypedArray): (number | bigint)[] {
  const list = Array.from(elements as ArrayLike<number | bigint>);
  return list.map((v) => (typeof v === 'number' && Number.isNaN(numberOf(dtype, v)) ? NaN : v));
}

function strided(bench: OpBench, dtype: DType, shape: readonly number[], layout: CopyLayout, elements: NodeJS.TypedArray | null): [Tensor, Tensor] {
  const base = bench.poisoned(dtype, [storageElements(shape, layout)]);
  if (elements) base.write(elements);
  return [base, bench.view(base, layout.offset, shape, layout.strides)];
}

describe.each(COPY_TYPES)('copy %s to %s', (from, to) => {
  it.each(COPY_CASES.map((c) => [c.name, c] as const))('%s', async (_name, c) => {
    const bench = new OpBench();
    const source = sample(from, storageElements(c.shape, c.x));
    const [, x] = strided(bench, from, c.shape, c.x, source);
    const [base, out] = strided(bench, to, c.shape, c.out, null);
    const expected = viewOf(to, new Uint8Array(base.numel * DTYPE_BYTES[to]).fill(0xff).buffer); // what lies between stays
    const converted = convert(from, to, source);
    const [fromIndices, toIndices] = [elementIndices(c.shape, c.x), elementIndices(c.shape, c.out)];
    toIndices.forEach((at, i) => (expected[at] = converted[fromIndices[i]!]!));
    bench.run(() => copyInto(out, x));
    expect(comparable(to, await base.read())).toEqual(comparable(to, expected));
    await bench.close();
  });
});

describe('copy', () => {
  it('refuses other dims and conversions that do not exist', async () => {
    const bench = new OpBench();
    const ints = bench.ints('int32', [4], [1, 2, 3, 4]);
    const x = bench.float('float32', [2, 2], randomValues(4, 1));
    const tensorError = expect.objectContaining({ code: 'ERR_KVASIR_TENSOR' });
    expect(() => bench.run(() => cast(ints, 'float32'))).toThrow(tensorError);
    expect(() => bench.run(() => cast(x, 'float8_e4m3'))).toThrow(tensorError);
    expect(() => copyInto(bench.poisoned('float32', [4]), x)).toThrow(expect.objectContaining({ code: 'ERR_KVASIR_PLAN' }));
    expect(() => bench.run(() => copyInto(bench.poisoned('float32', [4]), x))).toThrow(tensorError);
    await bench.close();
  });
});

describe('gatherRows', () => {
  const WIDTHS = [1, 33, 64, 5000];
  const cases = (['float32', 'bfloat16', 'int64', 'int8'] as const).flatMap((dtype) => WIDTHS.map((width) => [dtype, width] as const));

  it.each(cases)('%s rows of %d, some of which do not exist', async (dtype, width) => {
    const bench = new OpBench();
    const [numTokens, gap] = [11, 3];
    const indices = [3, 0, 10, 11, -1, 3, 2 ** 31 - 1, -(2 ** 31), 7];
    const layout = { strides: [width + gap, 1], offset: 0 };
    const source = sample(dtype, storageElements([numTokens, width], layout));
    const [, x] = strided(bench, dtype, [numTokens, width], layout, source);
    const out = bench.run(() => gatherRows(x, bench.ints('int32', [indices.length], indices)));
    const expected = indices.flatMap((row) => {
      const exists = row >= 0 && row < numTokens;
      return Array.from({ length: width }, (_, i) => (exists ? source[row * (width + gap) + i]! : dtype === 'int64' ? 0n : 0));
    });
    expect(Array.from((await out.read()) as ArrayLike<number | bigint>)).toEqual(expected);
    await bench.close();
  });
});

describe('fill', () => {
  const values: readonly (readonly [DType, number, number | bigint])[] = [
    ['float32', 0.1, Math.fround(0.1)],
    ['float16', -2.5, 0xc100],
    ['bfloat16', 1 / 3, 0x3eab],
    ['int32', -7, -7],
    ['int64', 2 ** 40, BigInt(2 ** 40)],
    ['uint8', 200, 200],
    ['int8', -3, -3],
    ['float32', 0, 0],
  ];

  it.each(values)('%s with %d writes its elements and no others', async (dtype, value, element) => {
    for (const [start, length] of [
      [0, 1000],
      [1, 2],
      [3, 777],
      [5, 0],
    ] as const) {
      const bench = new OpBench();
      const base = bench.poisoned(dtype, [1003]);
      bench.run(() => fill(narrow(base, 0, start, length), value));
      const expected = viewOf(dtype, new Uint8Array(1003 * DTYPE_BYTES[dtype]).fill(0xff).buffer);
      for (let i = start; i < start + length; i++) expected[i] = element;
      expect(await base.read()).toEqual(expected);
      await bench.close();
    }
  });
});

describe('fillRandom', () => {
  it.each(FLOATS)('%s: the same numbers on every device', async (dtype) => {
    const bench = new OpBench();
    const out = bench.poisoned(dtype, [3, 1001]);
    for (const [seed, scale] of [
      [0, 1],
      [2 ** 40 + 7, 0.02],
    ] as const) {
      bench.run(() => fillRandom(out, seed, scale));
      const expected = Float64Array.from({ length: 3003 }, (_, i) => randomReference(dtype, BigInt(seed), BigInt(i), scale));
      expect(await bench.values(out)).toEqual(expected);
      expect(Math.max(...expected.map(Math.abs))).toBeLessThanOrEqual(roundTo(dtype, Float64Array.of(scale))[0]!);
    }
    await bench.close();
  });
});
