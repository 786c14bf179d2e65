import { addRmsNorm, rmsNorm } from '../../lib/ops/norm';
import { NORM_CASES, NORM_EPS, normReference } from './cases/norm';
import { forEachIsa, OpBench, randomValues, relativeL2, roundTo, TOLERANCE } from './harness';

describe('RMSNorm', () => {
  it.each(NORM_CASES.map((c) => [JSON.stringify(c), c] as const))('%s', async (_name, c) => {
    await forEachIsa(async () => {
      const bench = new OpBench();
      const round = (v: Float64Array): Float64Array => roundTo(c.dtype, v);
      const shape = [c.numTokens, c.hiddenSize];
      const x = round(randomValues(c.numTokens * c.hiddenSize, 1, 3));
      const residual = c.residual ? round(randomValues(c.numTokens * c.hiddenSize, 2)) : null;
      const weight = round(randomValues(c.hiddenSize, 3));
      const expected = normReference(c, x, residual, weight, round);
      const xt = bench.float(c.dtype, shape, x);
      const wt = bench.float(c.dtype, [c.hiddenSize], weight);
      const rt = residual && bench.float(c.dtype, shape, residual);
      const out = bench.run(() => (rt ? addRmsNorm(xt, rt, wt, NORM_EPS, c.gemma) : rmsNorm(xt, wt, NORM_EPS, c.gemma)));
      expect(relativeL2(await bench.values(out), expected.out)).toBeLessThan(TOLERANCE[c.dtype]);
      if (rt) expect(relativeL2(await bench.values(rt), expected.sum)).toBe(0);
      await bench.close();
    });
  });

  it('names the tensor and the size that do not agree', async () => {
    const bench = new OpBench();
    const x = bench.float('float32', [2, 8], randomValues(16, 1));
    const weight = bench.float('float32', [4], randomValues(4, 2));
    expect(() => bench.run(() => rmsNorm(x, weight, NORM_EPS))).toThrow(
      expect.objectContaining({ code: 'ERR_KVASIR_TENSOR', message: expect.stringContaining('weight has hiddenSize 4, expected 8') }),
    );
    await bench.close();
  });
});
