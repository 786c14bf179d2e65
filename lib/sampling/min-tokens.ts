import { samplingMask } from '../ops/sampling';
import { idsTensor, type LogitsFeature } from './logits-feature';

/** minTokens: until the output is that long, the tokens that would end it are impossible. */
export const minTokens: LogitsFeature = {
  name: 'minTokens',
  create(params, device) {
    const ends = [...new Set([...params.eosTokenIds, ...params.stopTokenIds])];
    if (params.minTokens === 0 || ends.length === 0) return null;
    const ids = idsTensor(device, ends);
    const isActive = (numOutputTokens: number): boolean => numOutputTokens < params.minTokens;
    return {
      isActive,
      apply(logits, logitRow, numOutputTokens) {
        if (isActive(numOutputTokens)) samplingMask(logits, logitRow, ids, false);
      },
      dispose: () => ids.disposeStorage(),
    };
  },
};
