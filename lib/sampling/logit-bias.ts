import { samplingBias } from '../ops/sampling';
import { idsTensor, type LogitsFeature } from './logits-feature';

/** logitBias: adds a number to the logits of single tokens. */
export const logitBias: LogitsFeature = {
  name: 'logitBias',
  create(params, device) {
    if (!params.logitBias) return null;
    const ids = idsTensor(device, params.logitBias.map(([id]) => id));
    const values = device.empty([params.logitBias.length], 'float32');
    values.write(Float32Array.from(params.logitBias, ([, bias]) => bias));
    return {
      isActive: () => true,
      apply: (logits, logitRow) => samplingBias(logits, logitRow, ids, values),
      dispose() {
        ids.disposeStorage();
        values.disposeStorage();
      },
    };
  },
};
