import { describeGpu } from '../fixtures/gpu';
import { hasShared } from '../fixtures/shared';
import { FIXTURE_MODELS, GOLDEN_MODELS, goldenBfloat16, goldenFloat32, TRAINED_MODELS } from '../models/golden-suite';

const describeGolden = hasShared ? describeGpu : describe.skip;

describeGolden.each(GOLDEN_MODELS)('on CUDA, %s equals Hugging Face transformers (float32)', (name) => goldenFloat32(name, 'cuda'));

describeGpu.each(FIXTURE_MODELS)('on CUDA, %s equals Hugging Face transformers (float32)', (name) => goldenFloat32(name, 'cuda'));

describeGolden.each(TRAINED_MODELS)('on CUDA, %s in bfloat16 stays near Hugging Face transformers in float32', (name) => goldenBfloat16(name, 'cuda'));
