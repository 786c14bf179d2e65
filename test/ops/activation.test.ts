import { scale, silu, siluAndMul, softCap } from '../../lib/ops/activation';
import type { Tensor } from '../../lib/tensor/tensor';
import { narrow } from '../../lib/tensor/views';
import { ACTIVATION_CASES, ACTIVATION_SHAPES, ACTIVATION_TOLERANCE, PARAMETER_CASES, type ActivationCase } from './cases/activation';
import { forEachIsa, type FloatType, OpBench, randomValues, roundTo } from './harness';

const DTYPES: readonly FloatType[] = ['float32', 'float16', 'bfloat16'];

/** Largest |actual - expected| / (|expected| + floor); the floor covers results that underflow. */
function worstRelative(actual: Float64Array, expected: Float64Array, floor: number): number {
  expect(actual.length).toBe(expected.length);
  return actual.reduce((worst, a, i) => {
    const error = Math.abs(a - expected[i]!) / (Math.abs(expected[i]!) + floor);
    return error <= worst ? worst : error;
  }, 0);
}

function expectedOf(c: ActivationCase, x: Float64Array, numTokens: number, size: number): Float64Array {
  const width = c.gated ? 2 * size : size;
  return Float64Array.from({ length: numTokens * size }, (_, i) => {
    const at = Math.floor(i / size) * width + (i % size);
    return c.reference(x[at]!) * (c.gated ? x[at + size]! : 1);
  });
}

describe.each(ACTIVATION_CASES.map((c) => [c.name, c] as const))('%s', (_name, c) => {
  it.each(ACTIVATION_SHAPES.flatMap((shape) => DTYPES.map((dtype) => [dtype, ...shape] as const)))('%s [%d, %d]', async (dtype, numTokens, size) => {
    const width = c.gated ? 2 * size : size;
    const x = roundTo(dtype, randomValues(numTokens * width, 1, 3));
    await forEachIsa(async () => {
      const bench = new OpBench();
      const out = bench.run(() => c.op(bench.float(dtype, [numTokens, width], x)));
      const actual = await bench.values(out);
      const floor = dtype === 'float32' ? 1e-7 : 1e-4;
      expect(worstRelative(actual, expectedOf(c, x, numTokens, size), floor)).toBeLessThan(ACTIVATION_TOLERANCE[dtype]);
      await bench.close();
    });
  });

  it('keeps its limits at large values, and NaN', async () => {
    const values = Float64Array.of(0, 50, -50, 1000, -1000, 1e30, -1e30, NaN);
    await forEachIsa(async () => {
      const bench = new OpBench();
      const x = c.gated ? Float64Array.from([...values, ...values.map(() => 1)]) : values;
      const actual = await bench.values(bench.run(() => c.op(bench.float('float32', [1, x.length], x))));
      expect(actual[0]).toBe(0);
      for (const i of [1, 3, 5]) expect(actual[i]! / values[i]!).toBeCloseTo(1, 6);
      for (const i of [2, 4, 6]) expect(Math.abs(actual[i]!)).toBeLessThan(1e-6);
      expect(actual[7]).toBeNaN();
      await bench.close();
    });
  });
});

describe.each(PARAMETER_CASES.map((c) => [c.name, c] as const))('%s', (_name, c) => {
  it.each(ACTIVATION_SHAPES.flatMap((shape) => DTYPES.map((dtype) => [dtype, ...shape] as const)))('%s [%d, %d]', async (dtype, numTokens, size) => {
    const x = roundTo(dtype, randomValues(numTokens * size, 5, c.spread));
    await forEachIsa(async () => {
      const bench = new OpBench();
      const actual = await bench.values(bench.run(() => c.op(bench.float(dtype, [numTokens, size], x))));
      expect(worstRelative(actual, x.map(c.reference), dtype === 'float32' ? 1e-7 : 1e-4)).toBeLessThan(ACTIVATION_TOLERANCE[dtype]);
      await bench.close();
    });
  });
});

describe('scale', () => {
  it.each([
    ['float32', Math.fround(Math.sqrt(3584))],
    ['float16', 59.875],
    ['bfloat16', 59.75],
  ] as const)('rounds its factor to %s: sqrt(3584) becomes %d', async (dtype, rounded) => {
    const bench = new OpBench();
    const out = bench.run(() => scale(bench.float(dtype, [1, 2], Float64Array.of(1, -4)), Math.sqrt(3584)));
    expect([...(await bench.values(out))]).toEqual([rounded, -4 * rounded]);
    await bench.close();
  });
});

describe('softCap', () => {
  it('keeps its limits, zero, and NaN', async () => {
    await forEachIsa(async () => {
      const bench = new OpBench();
      const x = Float64Array.of(Infinity, -Infinity, 1e30, -1e30, 0, NaN);
      const actual = await bench.values(bench.run(() => softCap(bench.float('float32', [1, x.length], x), 30)));
      expect([...actual]).toEqual([30, -30, 30, -30, 0, NaN]);
      await bench.close();
    });
  });

  it('works in place, on rows that lie apart, and leaves what lies between', async () => {
    const bench = new OpBench();
    const values = randomValues(3 * 40, 6, 40);
    const wide = bench.float('float32', [3, 40], values);
    bench.run(() => {
      const view = narrow(wide, 1, 3, 20);
      expect(softCap(view, 30, view)).toBe(view);
    });
    const expected = values.map((v, i) => (i % 40 >= 3 && i % 40 < 23 ? 30 * Math.tanh(v / 30) : v));
    expect(worstRelative(await bench.values(wide), expected, 1e-7)).toBeLessThan(ACTIVATION_TOLERANCE.float32);
    await bench.close();
  });

  it.each([0, -1, NaN, Infinity])('refuses the cap %p', async (cap) => {
    const bench = new OpBench();
    const x = bench.float('float32', [1, 4], randomValues(4, 1));
    expect(() => bench.run(() => softCap(x, cap))).toThrow(expect.objectContaining({ code: 'ERR_KVASIR_TENSOR' }));
    await bench.close();
  });
});

describe('activations', () => {
  it('read rows that lie apart and write only their own elements', async () => {
    const bench = new OpBench();
    const wide = randomValues(3 * 40, 2);
    const wideTensor = bench.float('float32', [3, 40], wide);
    const [part, dense]: Tensor[] = bench.run(() => {
      const view = narrow(wideTensor, 1, 3, 20);
      return [siluAndMul(view), siluAndMul(bench.float('float32', [3, 20], wide.filter((_, i) => i % 40 >= 3 && i % 40 < 23)))];
    });
    expect(await bench.values(part!)).toEqual(await bench.values(dense!));
    await bench.close();
  });

  it('give one row the same bits alone and in a batch', async () => {
    const bench = new OpBench();
    const x = randomValues(37 * 1001, 4);
    const all = bench.run(() => silu(bench.float('float32', [37, 1001], x)));
    const one = bench.run(() => silu(bench.float('float32', [1, 1001], x.slice(17 * 1001, 18 * 1001))));
    expect((await bench.values(all)).slice(17 * 1001, 18 * 1001)).toEqual(await bench.values(one));
    await bench.close();
  });

  it('reject an odd number of columns', async () => {
    const bench = new OpBench();
    const x = bench.float('float32', [1, 5], randomValues(5, 1));
    expect(() => bench.run(() => siluAndMul(x))).toThrow(expect.objectContaining({ code: 'ERR_KVASIR_TENSOR' }));
    await bench.close();
  });
});
