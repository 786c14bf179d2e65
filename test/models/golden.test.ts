import { describeShared } from '../fixtures/shared';
import { GOLDEN_MODELS, goldenFloat32 } from './golden-suite';

describeShared.each(GOLDEN_MODELS)('%s equals Hugging Face transformers (float32)', (name) => goldenFloat32(name, 'cpu'));
