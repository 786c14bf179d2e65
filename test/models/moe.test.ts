import { describeShared, sharedPath } from '../fixtures/shared';
import { ForwardHarness, relativeMaxError } from './forward-harness';
import { readGolden } from './golden-suite';

describeShared.each(['tiny-random/mixtral', 'tiny-random/qwen3-moe'])('%s in 16 bits', (name) => {
  /** A rounded router may send a token with two nearly equal experts to the other one: hence the mean over prompts. */
  it.each([['bfloat16', 0.05], ['float16', 0.01]] as const)('%s stays near the float32 logits', async (dtype, limit) => {
    const harness = await ForwardHarness.load(sharedPath('models', name), dtype);
    try {
      const errors: number[] = [];
      for (const { prompt_ids, logits } of readGolden(name).last_logits!) {
        errors.push(relativeMaxError((await harness.logits(prompt_ids)).at(-1)!, logits));
      }
      expect(errors.length).toBeGreaterThan(0);
      expect(errors.reduce((a, b) => a + b, 0) / errors.length).toBeLessThan(limit);
    } finally {
      await harness.close();
    }
  });
});
