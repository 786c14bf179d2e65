import { describeShared } from '../fixtures/shared';
import { FIXTURE_MODELS, GOLDEN_MODELS, goldenBfloat16, goldenFloat32, promptLogprobErrors, TRAINED_MODELS } from './golden-suite';

describeShared.each(GOLDEN_MODELS)('%s equals Hugging Face transformers (float32)', (name) => goldenFloat32(name, 'cpu'));

describe.each(FIXTURE_MODELS)('%s equals Hugging Face transformers (float32)', (name) => goldenFloat32(name, 'cpu'));

// Where the device multiplies in fp8, activations are rounded too: those bounds are not these.
const BFLOAT16_MODELS = [...TRAINED_MODELS, 'babyllama-tok105-fp8'] as const;

describeShared.each(BFLOAT16_MODELS)('%s in bfloat16 stays near Hugging Face transformers in float32', (name) => goldenBfloat16(name, 'cpu'));

describe.each(FIXTURE_MODELS)('%s in 16 bits stays near Hugging Face transformers in float32', (name) => {
  // Random weights: logprobs lie around -8, and errors are larger than those of trained models.
  it.each([['bfloat16', 0.15], ['float16', 0.02]] as const)('%s: prompt logprobs, on average within %d', async (dtype, bound) => {
    expect((await promptLogprobErrors(name, 'cpu', dtype)).mean).toBeLessThan(bound);
  });
});
