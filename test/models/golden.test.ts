import { describeShared } from '../fixtures/shared';
import { GOLDEN_MODELS, goldenBfloat16, goldenFloat32, TRAINED_MODELS } from './golden-suite';

describeShared.each(GOLDEN_MODELS)('%s equals Hugging Face transformers (float32)', (name) => goldenFloat32(name, 'cpu'));

describeShared.each(TRAINED_MODELS)('%s in bfloat16 stays near Hugging Face transformers in float32', (name) => goldenBfloat16(name, 'cpu'));
