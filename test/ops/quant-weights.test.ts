import * as quant from '../../lib/ops/quant';
import type { PackFormat } from '../../lib/ops/quant';
import type { DType } from '../../lib/config/vllm';
import type { Tensor } from '../../lib/tensor/tensor';
import { narrow } from '../../lib/tensor/views';
import { fromFp8, nibbleAt, randomInts, randomWeights, toFp8 } from './cases/quant';
import { encode, forEachIsa, OpBench, randomValues, roundTo } from './harness';

const AWQ_OUTPUTS = [0, 2, 4, 6, 1, 3, 5, 7];

function tensorOf(bench: OpBench, dtype: DType, shape: readonly number[], data: NodeJS.TypedArray): Tensor {
  const tensor = bench.poisoned(dtype, shape);
  tensor.write(data);
  return tensor;
}

/** Words [rows][columns] whose nibble j at (row, column) is `nibble(row, column, j)`. */
function words(rows: number, columns: number, nibble: (row: number, column: number, j: number) => number): Int32Array {
  const out = new Int32Array(rows * columns);
  for (let i = 0; i < out.length; i++)
    for (let j = 0; j < 8; j++) out[i]! |= nibble(Math.floor(i / columns), i % columns, j) << (4 * j);
  return out;
}

describe('integers of checkpoints', () => {
  const [n, k, groups] = [40, 72, 9];
  const { codes } = randomWeights({ weight: 'int4', n, k, group: -1, blockN: 1, scaleType: 'float32', zeros: false }, 1);
  const at = (row: number, input: number): number => nibbleAt(codes, row, input, k);
  const zeros = Uint8Array.from(randomInts(n * groups, 2), (v) => v & 15);

  const WEIGHTS: readonly (readonly [PackFormat, number[], Int32Array])[] = [
    ['gptq', [k / 8, n], words(k / 8, n, (i, row, j) => at(row, 8 * i + j))],
    ['gptq_v2', [k / 8, n], words(k / 8, n, (i, row, j) => at(row, 8 * i + j))],
    ['awq', [k, n / 8], words(k, n / 8, (input, i, j) => at(8 * i + AWQ_OUTPUTS[j]!, input))],
    ['compressed', [n, k / 8], words(n, k / 8, (row, i, j) => at(row, 8 * i + j))],
  ];
  it.each(WEIGHTS)('become canonical int4: %s', async (format, shape, source) => {
    const bench = new OpBench();
    const out = bench.poisoned('uint8', [n, k / 2]);
    bench.run(() => quant.repackInt4(out, tensorOf(bench, 'int32', shape, source), format));
    expect(await out.read()).toEqual(codes);
    await bench.close();
  });

  const zeroAt = (row: number, g: number): number => zeros[row * groups + g]!;
  const ZEROS: readonly (readonly [PackFormat, number[], Int32Array, number])[] = [
    ['gptq', [groups, n / 8], words(groups, n / 8, (g, i, j) => zeroAt(8 * i + j, g)), 1],
    ['gptq_v2', [groups, n / 8], words(groups, n / 8, (g, i, j) => zeroAt(8 * i + j, g)), 0],
    ['awq', [groups, n / 8], words(groups, n / 8, (g, i, j) => zeroAt(8 * i + AWQ_OUTPUTS[j]!, g)), 0],
    ['compressed', [n / 8, groups], words(n / 8, groups, (i, g, j) => zeroAt(8 * i + j, g)), 0],
  ];
  it.each(ZEROS)('become canonical zero points: %s', async (format, shape, source, more) => {
    const bench = new OpBench();
    const out = bench.poisoned('uint8', [n, groups]);
    bench.run(() => quant.unpackZeros(out, tensorOf(bench, 'int32', shape, source), format));
    expect(await out.read()).toEqual(zeros.map((v) => v + more));
    await bench.close();
  });

  it.each(['gptq', 'compressed'] as const)('become canonical int8: %s', async (format) => {
    const bytes = Uint8Array.from(randomInts(n * k, 3), (v) => v & 255);
    const source = new Int32Array((n * k) / 4);
    for (let row = 0; row < n; row++)
      for (let i = 0; i < k; i++) {
        const word = format === 'gptq' ? (i >> 2) * n + row : row * (k / 4) + (i >> 2);
        source[word]! |= bytes[row * k + i]! << ((i & 3) * 8);
      }
    const bench = new OpBench();
    const out = bench.poisoned('int8', [n, k]);
    bench.run(() => quant.repackInt8(out, tensorOf(bench, 'int32', format === 'gptq' ? [k / 4, n] : [n, k / 4], source), format));
    expect(await out.read()).toEqual(Int8Array.from(bytes, (v) => v - 128));
    await bench.close();
  });

  it('take a short last word of compressed rows', async () => {
    const bench = new OpBench();
    const out = bench.poisoned('uint8', [2, 5]);
    const source = tensorOf(bench, 'int32', [2, 2], Int32Array.of(0x76543210, 0x98, 0x12345678, 0xab));
    bench.run(() => quant.repackInt4(out, source, 'compressed'));
    expect(await out.read()).toEqual(Uint8Array.of(0x10, 0x32, 0x54, 0x76, 0x98, 0x78, 0x56, 0x34, 0x12, 0xab));
    await bench.close();
  });
});

describe('quantizeFp8', () => {
  it.each(['float32', 'float16', 'bfloat16'] as const)('rounds rows to the nearest codes: %s', async (dtype) => {
    const [n, k] = [37, 141];
    const values = roundTo(dtype, randomValues(n * (k + 3), 1).map((v, i) => v * 2 ** ((i % 23) - 18)));
    values.fill(0, 2 * (k + 3), 3 * (k + 3));
    await forEachIsa(async () => {
      const bench = new OpBench();
      const source = tensorOf(bench, dtype, [n, k + 3], encode(dtype, values));
      const [weight, scales] = [bench.poisoned('float8_e4m3', [n, k]), bench.poisoned('float32', [n])];
      bench.run(() => quant.quantizeFp8(weight, scales, narrow(source, 1, 0, k)));
      const [codes, scale] = [await weight.read(), await bench.values(scales)];
      for (let row = 0; row < n; row++) {
        const line = values.subarray(row * (k + 3), row * (k + 3) + k);
        const largest = line.reduce((a, b) => Math.max(a, Math.abs(b)), 0);
        expect(scale[row]).toBe(largest === 0 ? 1 : Math.fround(largest / 448));
        expect(Array.from(codes.slice(row * k, (row + 1) * k), Number)).toEqual(Array.from(line, (v) => toFp8(Math.fround(v / scale[row]!))));
      }
      await bench.close();
    });
  });

  it('undoes every code', async () => {
    const all = Float64Array.from({ length: 256 }, (_, code) => fromFp8(code));
    const finite = all.map((v) => (Number.isNaN(v) ? 448 : v));
    await forEachIsa(async () => {
      const bench = new OpBench();
      const [weight, scales] = [bench.poisoned('float8_e4m3', [1, 256]), bench.poisoned('float32', [1, 1])];
      bench.run(() => quant.quantizeFp8(weight, scales, bench.float('float32', [1, 256], finite)));
      expect(Array.from(await weight.read(), Number)).toEqual(Array.from({ length: 256 }, (_, code) => ((code & 127) === 127 ? 126 : code)));
      await bench.close();
    });
  });
});

describe('errors of quantized weights', () => {
  const tensorError = (text: string): Error => expect.objectContaining({ code: 'ERR_KVASIR_TENSOR', message: expect.stringContaining(text) }) as Error;

  it('names what does not agree', async () => {
    const bench = new OpBench();
    const make = (dtype: DType, ...shape: number[]): Tensor => bench.poisoned(dtype, shape);
    const x = make('bfloat16', 2, 64);
    const weight = make('uint8', 48, 32);
    const scales = make('float16', 48, 2);
    const int4 = (w: Tensor, s: Tensor, z: Tensor | null = null): (() => unknown) => () => bench.run(() => quant.linearInt4(x, w, s, z, null, false));
    expect(int4(make('uint8', 48, 64), scales)).toThrow(tensorError('weight must have inFeatures / 2 columns'));
    expect(int4(make('int8', 48, 32), scales)).toThrow(tensorError('weight must be uint8'));
    expect(int4(weight, make('float16', 48, 3))).toThrow(tensorError('a multiple of the number of groups'));
    expect(int4(weight, make('float16', 48, 16))).toThrow(tensorError('a group must be'));
    expect(int4(weight, make('float16', 47, 2))).toThrow(tensorError('scales has outFeatures 47, expected 48'));
    expect(int4(weight, scales, make('uint8', 48, 1))).toThrow(tensorError('zeros has groups 1, expected 2'));
    const fp8 = make('float8_e4m3', 48, 64);
    const linearFp8 = (s: Tensor, blockN: number, blockK: number): (() => unknown) => () =>
      bench.run(() => quant.linearFp8(x, fp8, s, null, { blockN, blockK }, 'none'));
    expect(linearFp8(make('float32', 1, 2), 48, 64)).toThrow(tensorError('scales must be'));
    expect(linearFp8(make('float32', 48, 11), 1, 6)).toThrow(tensorError('blockK must be a multiple of 4'));
    expect(linearFp8(make('float16', 48, 1), 1, 64)).toThrow(tensorError('scales must be float32'));
    expect(() => bench.run(() => quant.linearFp8(x, fp8, make('float32', 48), null, { blockN: 1, blockK: 64 }, { staticScale: 0 }))).toThrow(
      tensorError('a static inputScale must be positive'),
    );
    await bench.close();
  });

  it('refuses what cannot be packed, packing twice and packing by halves', async () => {
    const bench = new OpBench();
    const make = (dtype: DType, ...shape: number[]): Tensor => bench.poisoned(dtype, shape);
    expect(() => bench.run(() => quant.packInt4(make('uint8', 32, 6), make('float32', 32, 1), null))).toThrow(tensorError('a multiple of 8'));
    expect(() => bench.run(() => quant.packInt8(make('int8', 32, 6), make('float32', 32, 1)))).toThrow(tensorError('a multiple of 4'));
    expect(() => bench.run(() => quant.packFp8(make('float8_e4m3', 32, 6)))).toThrow(tensorError('a multiple of 4'));
    expect([quant.canPackInt4(12), quant.canPackInt4(16), quant.canPackBytes(12), quant.canPackBytes(6)]).toEqual([false, true, true, false]);
    const [weight, scales] = [make('uint8', 32, 16), make('float32', 32, 1)];
    bench.run(() => quant.packInt4(weight, scales, null));
    expect([weight.packed, scales.packed]).toEqual([true, true]);
    expect(() => bench.run(() => quant.packInt4(weight, scales, null))).toThrow(tensorError('packed already'));
    const x = make('bfloat16', 1, 32);
    expect(() => bench.run(() => quant.linearInt4(x, weight, make('float32', 32, 1), null, null, false))).toThrow(tensorError('packed together'));
    await bench.close();
  });

  it('refuses sources of other shapes', async () => {
    const bench = new OpBench();
    const make = (dtype: DType, ...shape: number[]): Tensor => bench.poisoned(dtype, shape);
    const out = make('uint8', 16, 16);
    expect(() => bench.run(() => quant.repackInt4(out, make('int32', 16, 4), 'gptq'))).toThrow(tensorError('[inFeatures / 8, outFeatures]'));
    expect(() => bench.run(() => quant.repackInt4(out, make('int32', 4, 16), 'awq'))).toThrow(tensorError('[inFeatures, outFeatures / 8]'));
    expect(() => bench.run(() => quant.repackInt4(out, make('int32', 4, 16), 'compressed'))).toThrow(tensorError('[outFeatures, ceil(inFeatures / 8)]'));
    expect(() => bench.run(() => quant.unpackZeros(make('uint8', 16, 4), make('int32', 4, 16), 'awq'))).toThrow(tensorError('outFeatures / 8 columns'));
    expect(() => bench.run(() => quant.repackInt8(make('int8', 16, 16), make('int32', 16, 4), 'gptq'))).toThrow(tensorError('[inFeatures / 4, outFeatures]'));
    await bench.close();
  });
});
