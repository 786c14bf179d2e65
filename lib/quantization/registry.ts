import { KvasirError } from '../utils/errors';
import type { QuantizationConfig } from './method';
import { UnquantizedLinearMethod } from './unquantized';

type FromCheckpoint = (config: Readonly<Record<string, unknown>>) => QuantizationConfig;

/** quant_method of config.json's quantization_config -> how to read it. A method adds its line here. */
const METHODS: Readonly<Record<string, FromCheckpoint>> = {};

/** Every layer in the model's dtype. */
const UNQUANTIZED: QuantizationConfig = (() => {
  const method = new UnquantizedLinearMethod();
  return { name: 'none', getQuantMethod: () => method };
})();

/**
 * How a checkpoint is quantized.
 * @param raw config.json's quantization_config, or null
 * @throws KvasirError ERR_KVASIR_UNSUPPORTED for a method that is not registered
 */
export function quantizationFromCheckpoint(raw: unknown): QuantizationConfig {
  if (raw === null || raw === undefined) return UNQUANTIZED;
  const config = raw as Readonly<Record<string, unknown>>;
  const name = String(config.quant_method);
  const make = Object.hasOwn(METHODS, name) ? METHODS[name] : undefined;
  if (!make) {
    const known = Object.keys(METHODS).join(', ') || 'none yet';
    throw new KvasirError('ERR_KVASIR_UNSUPPORTED', `the checkpoint is quantized with "${name}", which is not supported (supported: ${known})`);
  }
  return make(config);
}
