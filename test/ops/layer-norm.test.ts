import { add, addLayerNorm, layerNorm } from '../../lib/ops/norm';
import { narrow } from '../../lib/tensor/views';
import { LAYER_NORM_CASES, LAYER_NORM_EPS, layerNormReference } from './cases/layer-norm';
import { forEachIsa, OpBench, randomValues, relativeL2, roundTo, TOLERANCE, type FloatType } from './harness';

const DTYPES: readonly FloatType[] = ['float32', 'float16', 'bfloat16'];

describe('LayerNorm', () => {
  it.each(LAYER_NORM_CASES.map((c) => [JSON.stringify(c), c] as const))('%s', async (_name, c) => {
    const round = (v: Float64Array): Float64Array => roundTo(c.dtype, v);
    const shape = [c.numTokens, c.hiddenSize];
    const x = round(randomValues(c.numTokens * c.hiddenSize, 1, 3).map((v) => v + 2));
    const residual = c.residual ? round(randomValues(c.numTokens * c.hiddenSize, 2)) : null;
    const weight = round(randomValues(c.hiddenSize, 3));
    const bias = c.bias ? round(randomValues(c.hiddenSize, 4)) : null;
    const expected = layerNormReference(c, x, residual, weight, bias, round);
    await forEachIsa(async () => {
      const bench = new OpBench();
      const xt = bench.float(c.dtype, shape, x);
      const wt = bench.float(c.dtype, [c.hiddenSize], weight);
      const bt = bias && bench.float(c.dtype, [c.hiddenSize], bias);
      const rt = residual && bench.float(c.dtype, shape, residual);
      const out = bench.run(() => (rt ? addLayerNorm(xt, rt, wt, bt, LAYER_NORM_EPS) : layerNorm(xt, wt, bt, LAYER_NORM_EPS)));
      expect(relativeL2(await bench.values(out), expected.out)).toBeLessThan(TOLERANCE[c.dtype]);
      if (rt) expect(relativeL2(await bench.values(rt), expected.sum)).toBe(0);
      await bench.close();
    });
  });

  it('keeps the small differences of a row with a large mean', async () => {
    const x = roundTo('float32', randomValues(256, 5).map((v) => v + 1000));
    const ones = new Float64Array(256).fill(1);
    const { out: expected } = layerNormReference({ numTokens: 1, hiddenSize: 256 }, x, null, ones, null, (v) => v);
    await forEachIsa(async () => {
      const bench = new OpBench();
      const out = bench.run(() => layerNorm(bench.float('float32', [1, 256], x), bench.float('float32', [256], ones), null, LAYER_NORM_EPS));
      expect(relativeL2(await bench.values(out), expected)).toBeLessThan(2e-4);
      await bench.close();
    });
  });

  it('reads rows that lie apart, and gives one row the same bits alone and in a batch', async () => {
    const bench = new OpBench();
    const wide = bench.float('bfloat16', [37, 208], randomValues(37 * 208, 6));
    const weight = bench.float('bfloat16', [176], randomValues(176, 7));
    const bias = bench.float('bfloat16', [176], randomValues(176, 8));
    const rows = (start: number, length: number) => layerNorm(narrow(narrow(wide, 1, 16, 176), 0, start, length), weight, bias, LAYER_NORM_EPS);
    const [all, one] = bench.run(() => [rows(0, 37), rows(17, 1)]);
    expect((await bench.values(all!)).slice(17 * 176, 18 * 176)).toEqual(await bench.values(one!));
    await bench.close();
  });

  it.each([
    ['weight', [4], [8], 'weight has hiddenSize 4, expected 8'],
    ['bias', [8], [4], 'bias has hiddenSize 4, expected 8'],
  ])('names the tensor that does not agree: %s', async (_name, weightShape, biasShape, message) => {
    const bench = new OpBench();
    const x = bench.float('float32', [2, 8], randomValues(16, 1));
    const weight = bench.float('float32', weightShape, randomValues(weightShape[0]!, 2));
    const bias = bench.float('float32', biasShape, randomValues(biasShape[0]!, 3));
    expect(() => bench.run(() => layerNorm(x, weight, bias, LAYER_NORM_EPS))).toThrow(
      expect.objectContaining({ code: 'ERR_KVASIR_TENSOR', message: expect.stringContaining(message) }),
    );
    await bench.close();
  });
});

describe('add', () => {
  it.each(DTYPES.flatMap((dtype) => [[dtype, 1, 5], [dtype, 7, 64], [dtype, 3, 1003], [dtype, 2, 5120]] as const))('%s [%d, %d]', async (dtype, numTokens, width) => {
    const x = roundTo(dtype, randomValues(numTokens * width, 1, 3));
    const y = roundTo(dtype, randomValues(numTokens * width, 2));
    const expected = roundTo(dtype, x.map((v, i) => v + y[i]!));
    await forEachIsa(async () => {
      const bench = new OpBench();
      const out = bench.run(() => add(bench.float(dtype, [numTokens, width], x), bench.float(dtype, [numTokens, width], y)));
      expect(await bench.values(out)).toEqual(expected);
      await bench.close();
    });
  });

  it('takes rows that lie apart', async () => {
    const bench = new OpBench();
    const wide = randomValues(3 * 40, 2);
    const tensor = bench.float('float32', [3, 40], roundTo('float32', wide));
    const out = bench.run(() => add(narrow(tensor, 1, 0, 20), narrow(tensor, 1, 17, 20)));
    const value = (t: number, i: number): number => Math.fround(Math.fround(wide[t * 40 + i]!) + Math.fround(wide[t * 40 + i + 17]!));
    expect(await bench.values(out)).toEqual(Float64Array.from({ length: 60 }, (_, i) => value(Math.floor(i / 20), i % 20)));
    await bench.close();
  });

  it('refuses tensors of other sizes', async () => {
    const bench = new OpBench();
    const [x, y] = [bench.float('float32', [2, 8], randomValues(16, 1)), bench.float('float32', [2, 4], randomValues(8, 2))];
    expect(() => bench.run(() => add(x, y))).toThrow(expect.objectContaining({ code: 'ERR_KVASIR_TENSOR' }));
    await bench.close();
  });
});
