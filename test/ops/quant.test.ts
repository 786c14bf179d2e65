import * as quant from '../../lib/ops/quant';
import type { DType } from '../../lib/config/vllm';
import type { Tensor } from '../../lib/tensor/tensor';
import { narrow } from '../../lib/tensor/views';
import { linearReference } from './cases/gemm';
import { FP8_CASES, GPU_CASES, INT_CASES, randomWeights, roundedToFp8, roundedToInt8, UNPACKED_CASES, type QuantCase, type QuantWeights } from './cases/quant';
import { encode, forEachIsa, itOn, OpBench, randomValues, relativeL2, roundTo, TEST_DEVICE, TOLERANCE, type FloatType } from './harness';

/** A tensor of given elements or bits. */
function tensorOf(bench: OpBench, dtype: DType, shape: readonly number[], data: NodeJS.TypedArray): Tensor {
  const tensor = bench.poisoned(dtype, shape);
  tensor.write(data);
  return tensor;
}

/** The smaller of what a case names and all there is. */
const groupOf = (c: QuantCase): number => (c.group === -1 ? c.k : c.group);
const WEIGHT_TYPE = { int4: 'uint8', int8: 'int8', fp8: 'float8_e4m3' } as const;

interface Weights {
  readonly weight: Tensor;
  readonly scales: Tensor;
  readonly zeros: Tensor | null;
}

function weightTensors(bench: OpBench, c: QuantCase, w: QuantWeights): Weights {
  const weight = tensorOf(bench, WEIGHT_TYPE[c.weight], [c.n, c.weight === 'int4' ? c.k / 2 : c.k], w.codes);
  const scales = bench.float(c.scaleType, [Math.ceil(c.n / c.blockN), w.groups], w.scales);
  const zeros = w.zeros && tensorOf(bench, 'uint8', [c.n, w.groups], w.zeros);
  if (c.packed)
    bench.run(() => {
      if (c.weight === 'int4') quant.packInt4(weight, scales, zeros);
      else if (c.weight === 'int8') quant.packInt8(weight, scales);
      else quant.packFp8(weight);
    });
  return { weight, scales, zeros };
}

function linear(c: QuantCase, out: Tensor, x: Tensor, { weight, scales, zeros }: Weights, bias: Tensor | null): void {
  if (c.weight === 'int4') quant.linearInt4Into(out, x, weight, scales, zeros, bias, c.dynamic);
  else if (c.weight === 'int8') quant.linearInt8Into(out, x, weight, scales, bias, c.dynamic);
  else quant.linearFp8Into(out, x, weight, scales, bias, { blockN: c.blockN, blockK: groupOf(c) }, 'none');
}

/** x [m, k] with `gap` columns of NaN after each row. */
function withGaps(x: Float64Array, m: number, k: number, gap: number): Float64Array {
  const wide = new Float64Array(m * (k + gap)).fill(NaN);
  for (let i = 0; i < m; i++) wide.set(x.subarray(i * k, (i + 1) * k), i * (k + gap));
  return wide;
}

/**
 * Weights are exact on the CPU, so that only the output's type rounds; other backends may round them to the type of x.
 * Activations rounded to int8: with values up to 3.5 standard deviations, steps of 3.5 / 127, an error of 1 / sqrt(12) steps, 8e-3; more
 * with zero points, which leave weights a mean whose product with x may cancel.
 */
function toleranceOf(c: QuantCase): number {
  if (c.dtype === 'float32') return TOLERANCE.float32;
  if (c.dynamic) return c.zeros ? 2e-2 : 1.2e-2;
  return c.outFloat32 && TEST_DEVICE === 'cpu' ? 2e-5 : TOLERANCE[c.dtype];
}

const biasType = (c: QuantCase): FloatType => (c.bias === 'same' ? c.dtype : 'float32');
const outType = (c: QuantCase): FloatType => (c.outFloat32 ? 'float32' : c.dtype);

async function checkCase(c: QuantCase, w: QuantWeights, x: Float64Array, bias: Float64Array | null, expected: Float64Array): Promise<void> {
  const gap = c.strided ? 8 : 0;
  const bench = new OpBench();
  const xWide = tensorOf(bench, c.dtype, [c.m, c.k + gap], encode(c.dtype, withGaps(x, c.m, c.k, gap)));
  const weights = weightTensors(bench, c, w);
  const biasTensor = bias && bench.float(biasType(c), [c.n], bias);
  const wide = bench.poisoned(outType(c), [c.m, c.n + gap]);
  bench.run(() => linear(c, narrow(wide, 1, 0, c.n), narrow(xWide, 1, 0, c.k), weights, biasTensor));
  const all = await bench.values(wide);
  const width = c.n + gap;
  const actual = new Float64Array(c.m * c.n);
  let overwritten = 0; // elements between the rows
  for (let i = 0; i < c.m; i++) {
    actual.set(all.subarray(i * width, i * width + c.n), i * c.n);
    for (let j = c.n; j < width; j++) overwritten += Number(!Number.isNaN(all[i * width + j]!));
  }
  expect(relativeL2(actual, expected)).toBeLessThan(toleranceOf(c));
  expect(overwritten).toBe(0);
  await bench.close();
}

describe('linear layers with quantized weights', () => {
  const CASES = [...INT_CASES, ...FP8_CASES, ...UNPACKED_CASES, ...(TEST_DEVICE === 'cuda' ? GPU_CASES : [])];
  it.each(CASES.map((c) => [JSON.stringify(c), c] as const))('%s', async (_name, c) => {
    const w = randomWeights(c, 1);
    const x = roundTo(c.dtype, randomValues(c.m * c.k, 2));
    const bias = c.bias === 'none' ? null : roundTo(biasType(c), randomValues(c.n, 3));
    const expected = linearReference(c, x, w.values, bias);
    await forEachIsa(() => checkCase(c, w, x, bias, expected));
  });

  const BASE = { blockN: 1, scaleType: 'float16', packed: true, bias: 'none', strided: false, outFloat32: true } as const;

  /** Levels that round activations, and the rounding they are asked to do. */
  itOn('cpu').each([
    ['int4', 32, false, ['avx2', 'avx512', 'avx512_bf16']],
    ['int4', 24, true, ['avx2', 'avx512', 'avx512_bf16']],
    ['int4', 256, true, ['avx2', 'avx512', 'avx512_bf16']],
    ['int8', -1, false, ['avx512_bf16']],
  ] as const)('rounds activations with a scale per 128 inputs of a group, or for whole groups: %s %i', async (weight, group, zeros, levels) => {
    const c: QuantCase = { ...BASE, weight, dtype: 'bfloat16', m: 9, n: 96, k: group === 24 ? 528 : 512, group, zeros, dynamic: true };
    const w = randomWeights(c, 4);
    const x = roundTo(c.dtype, randomValues(c.m * c.k, 5).map((v, i) => (i % 37 === 0 ? 20 * v : v)));
    const exact = linearReference(c, x, w.values, null);
    const rounded = linearReference(c, roundedToInt8(x, c.m, c.k, groupOf(c), 128), w.values, null);
    expect(relativeL2(rounded, exact)).toBeGreaterThan(2e-3);
    await forEachIsa(async (isa) => {
      const bench = new OpBench();
      const out = bench.poisoned('float32', [c.m, c.n]);
      const weights = weightTensors(bench, c, w);
      bench.run(() => linear(c, out, bench.float(c.dtype, [c.m, c.k], x), weights, null));
      const expected = (levels as readonly string[]).includes(isa) ? rounded : exact;
      expect([isa, relativeL2(await bench.values(out), expected)]).toEqual([isa, expect.closeTo(0, 4)]);
      await bench.close();
    });
  });

  itOn('cpu').each([
    ['int4', 32],
    ['int4', 128],
    ['int8', -1],
  ] as const)('takes activations whose parts are of very different sizes: %s %i', async (weight, group) => {
    const c: QuantCase = { ...BASE, weight, dtype: 'bfloat16', m: 4, n: 64, k: 768, group, zeros: false, dynamic: true };
    const w = randomWeights(c, 4);
    const sizes = [
      [0, 1e20, 1e-25, 0, 1, 1e-30],
      [1e-30, 1e20, 1e-12, 1e20, 0, 0],
      [1e-38, 0, 1e-30, 1e-20, 1e-3, 1],
      [1, 1e-3, 1e-2, 0, 2, 1e-4],
    ] as const;
    const x = roundTo(c.dtype, randomValues(c.m * c.k, 5).map((v, i) => v * sizes[Math.floor(i / c.k)]![Math.floor((i % c.k) / 128)]!));
    const expected = linearReference(c, x, w.values, null);
    await forEachIsa(async (isa) => {
      const bench = new OpBench();
      const out = bench.poisoned('float32', [c.m, c.n]);
      bench.run(() => linear(c, out, bench.float(c.dtype, [c.m, c.k], x), weightTensors(bench, c, w), null));
      const values = await bench.values(out);
      const errors = sizes.map((_, row) => relativeL2(values.subarray(row * c.n, (row + 1) * c.n), expected.subarray(row * c.n, (row + 1) * c.n)));
      expect([isa, Math.max(...errors) < toleranceOf(c)]).toEqual([isa, true]);
      await bench.close();
    });
  });

  const INVARIANT: readonly QuantCase[] = (['int4', 'int8', 'fp8'] as const).flatMap((weight) =>
    (['bfloat16', 'float16', 'float32'] as const).flatMap((dtype) =>
      [false, true].map(
        (dynamic): QuantCase => ({ ...BASE, ...{ weight, dtype, dynamic }, m: 401, n: 105, k: 352, group: 32, scaleType: 'float32', zeros: weight === 'int4', outFloat32: false }),
      ),
    ),
  );
  itOn('cpu').each(INVARIANT.filter((c) => !c.dynamic || (c.weight !== 'fp8' && c.dtype !== 'float32')))(
    'is the same bit for bit whatever else is in the batch: $weight $dtype, dynamic $dynamic',
    async (c) => {
      const w = randomWeights(c, 1);
      const xBits = encode(c.dtype, randomValues(c.m * c.k, 2));
      await forEachIsa(async (isa) => {
        const bench = new OpBench();
        const weights = weightTensors(bench, c, w);
        const x = tensorOf(bench, c.dtype, [c.m, c.k], xBits);
        const result = async (start: number, count: number): Promise<Float64Array> => {
          const out = bench.poisoned(c.dtype, [count, c.n]);
          bench.run(() => linear(c, out, narrow(x, 0, start, count), weights, null));
          return bench.values(out);
        };
        const whole = await result(0, c.m);
        for (const [start, count] of [[0, 1], [400, 1], [17, 5], [100, 6], [250, 7], [3, 64]] as const) {
          const part = await result(start, count);
          expect([isa, start, Buffer.from(part.buffer).equals(Buffer.from(whole.buffer, start * c.n * 8, count * c.n * 8))]).toEqual([isa, start, true]);
        }
        await bench.close();
      });
    },
  );

  // In 16 bits, kernels on CUDA take the code of NaN for 480 (cuda/quant/decode.cuh).
  it.each(TEST_DEVICE === 'cuda' ? (['float32'] as const) : (['float32', 'bfloat16'] as const))('keeps NaN among fp8 weights in its column: %s', async (dtype) => {
    const c: QuantCase = { ...BASE, weight: 'fp8', dtype, m: 7, n: 40, k: 64, group: -1, scaleType: 'float32', zeros: false, dynamic: false };
    const w = randomWeights(c, 7);
    for (const [row, code] of [[3, 0x7f], [38, 0xff]] as const) w.codes[row * c.k + row] = code;
    await forEachIsa(async () => {
      const bench = new OpBench();
      const out = bench.poisoned('float32', [c.m, c.n]);
      const weights = weightTensors(bench, c, w);
      bench.run(() => linear(c, out, bench.float(dtype, [c.m, c.k], randomValues(c.m * c.k, 8)), weights, null));
      const values = await bench.values(out);
      expect(values.map((v, i) => Number(Number.isNaN(v) !== [3, 38].includes(i % c.n))).some(Boolean)).toBe(false);
      await bench.close();
    });
  });

  /** Rows of one batch by the same kernel: up to 64 tokens, above, and all in batch-invariant mode. */
  const GPU_PARTS = [
    [64, false, [[0, 1], [63, 1], [5, 8], [20, 30]]],
    [401, false, [[0, 65], [300, 101], [17, 200]]],
    [401, true, [[0, 1], [400, 1], [17, 5], [3, 64], [100, 300]]],
  ] as const;
  itOn('cuda').each(
    (['int4', 'int8', 'fp8'] as const).flatMap((weight) => GPU_PARTS.flatMap(([m, invariant, parts]) => [32, 256].map((group) => [weight, group, m, invariant, parts] as const))),
  )('is the same bit for bit in one batch and another of a kernel: %s group %i, %i rows, batch invariant %p', async (weight, group, m, invariant, parts) => {
    const c: QuantCase = { ...BASE, weight, dtype: 'bfloat16', m, n: 200, k: 512, group, scaleType: 'float32', zeros: false, dynamic: false };
    const w = randomWeights(c, 1);
    const bench = new OpBench();
    bench.device.configureGemm({ batchInvariant: invariant });
    const weights = weightTensors(bench, c, w);
    const x = tensorOf(bench, c.dtype, [m, c.k], encode(c.dtype, randomValues(m * c.k, 2)));
    const result = async (start: number, count: number): Promise<Float64Array> => {
      const out = bench.poisoned('float32', [count, c.n]);
      bench.run(() => linear(c, out, narrow(x, 0, start, count), weights, null));
      return bench.values(out);
    };
    const whole = await result(0, m);
    for (const [start, count] of parts) {
      const part = await result(start, count);
      expect([start, Buffer.from(part.buffer).equals(Buffer.from(whole.buffer, start * c.n * 8, count * c.n * 8))]).toEqual([start, true]);
    }
    await bench.close();
  });

  itOn('cuda').each(
    (['bfloat16', 'float16'] as const).flatMap((dtype) =>
      [3, 16, 130].flatMap((m) => (['dynamic', { staticScale: 1 / 64 }] as const).map((activation) => [dtype, m, activation, m !== 16] as const)),
    ),
  )('rounds activations to fp8, or multiplies exactly: %s, %i rows, %p, float32 out %p', async (dtype, m, activation, outFloat32) => {
    const c: QuantCase = { ...BASE, weight: 'fp8', dtype, m, n: 208, k: 1056, group: -1, scaleType: 'float32', zeros: false, dynamic: true, outFloat32 };
    const w = randomWeights(c, 8);
    const x = roundTo(dtype, randomValues(c.m * c.k, 9).map((v, i) => (Math.floor(i / c.k) === 1 ? 0 : v)));
    const biasValues = roundTo(dtype, randomValues(c.n, 3));
    const exact = linearReference(c, x, w.values, biasValues);
    const rounded = linearReference(c, roundedToFp8(x, c.m, c.k, activation === 'dynamic' ? null : activation.staticScale), w.values, biasValues);
    expect(relativeL2(rounded, exact)).toBeGreaterThan(1e-2);
    const bench = new OpBench();
    const weights = weightTensors(bench, c, w);
    const out = bench.poisoned(outType(c), [c.m, c.n]);
    const [input, bias] = [bench.float(dtype, [c.m, c.k], x), bench.float(dtype, [c.n], biasValues)];
    bench.run(() => quant.linearFp8Into(out, input, weights.weight, weights.scales, bias, { blockN: 1, blockK: c.k }, activation));
    const actual = await bench.values(out);
    // Without the library the weight is multiplied as it is.
    expect(Math.min(relativeL2(actual, rounded), relativeL2(actual, exact))).toBeLessThan(TOLERANCE[dtype]);
    await bench.close();
  });

  it.each(['int4', 'int8'] as const)('gives zero for a row of zeros and NaN for one with an infinity: %s', async (weight) => {
    const c: QuantCase = { ...BASE, weight, dtype: 'bfloat16', m: 3, n: 40, k: 128, group: 32, zeros: false, dynamic: true };
    const w = randomWeights(c, 6);
    const x = new Float64Array(3 * 128).fill(0);
    x[128 + 70] = Infinity;
    x.fill(1, 256);
    await forEachIsa(async () => {
      const bench = new OpBench();
      const out = bench.poisoned('float32', [3, 40]);
      const weights = weightTensors(bench, c, w);
      bench.run(() => linear(c, out, bench.float('bfloat16', [3, 128], x), weights, null));
      const values = await bench.values(out);
      expect(values.subarray(0, 40)).toEqual(new Float64Array(40));
      expect(values.subarray(40, 80).filter(Number.isFinite)).toHaveLength(0);
      expect(values.subarray(80).filter(Number.isFinite)).toHaveLength(40);
      await bench.close();
    });
  });
});
