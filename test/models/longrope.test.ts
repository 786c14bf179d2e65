import { describeShared } from '../fixtures/shared';
import { randomPrompt } from '../integration/workload';
import { promptLogprobs } from './changed-config';

describeShared('LongRoPE of Phi 3, whose original length stands outside of rope_scaling', () => {
  const prompt = randomPrompt(3, 50, 512);
  const logprobs = (changes: Record<string, unknown>, args = {}): Promise<number[]> => promptLogprobs('tiny-random/phi3', prompt, changes, args);
  const factors = (value: number): number[] => Array(8).fill(value);
  const longrope = (others: Record<string, unknown> = {}): Record<string, unknown> => ({
    original_max_position_embeddings: 64,
    rope_scaling: { type: 'longrope', short_factor: factors(1), long_factor: factors(2), ...others },
  });
  const withoutTemperature = { short_mscale: 1, long_mscale: 1 };

  it('uses the long factors when sequences may exceed the original length', async () => {
    const linear = await logprobs({ rope_scaling: { type: 'linear', factor: 2 } });
    expect(await logprobs(longrope(withoutTemperature))).toEqual(linear);
    expect(await logprobs({})).not.toEqual(linear);
  });

  it('uses the short factors when they may not', async () => {
    expect(await logprobs(longrope(withoutTemperature), { maxModelLen: 64 })).toEqual(await logprobs({}));
  });

  it('raises the temperature of attention with the stretch', async () => {
    expect(await logprobs(longrope(), { maxModelLen: 64 })).not.toEqual(await logprobs({}));
    // 512 / 64: sqrt(1 + ln 8 / ln 64)
    const factor = Math.sqrt(1.5);
    expect(await logprobs(longrope())).toEqual(await logprobs(longrope({ long_mscale: factor })));
  });
});
