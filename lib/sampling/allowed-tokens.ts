import { samplingMask } from '../ops/sampling';
import { idsTensor, type LogitsFeature } from './logits-feature';

/** allowedTokenIds: every other token is impossible. */
export const allowedTokens: LogitsFeature = {
  name: 'allowedTokenIds',
  create(params, device) {
    if (!params.allowedTokenIds) return null;
    const ids = idsTensor(device, params.allowedTokenIds);
    return {
      isActive: () => true,
      apply: (logits, logitRow) => samplingMask(logits, logitRow, ids, true),
      dispose: () => ids.disposeStorage(),
    };
  },
};
