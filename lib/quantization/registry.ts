import { KvasirError } from '../utils/errors';
import { AwqConfig } from './awq-config';
import type { CheckpointTypes } from './checkpoint-types';
import { CompressedTensorsConfig } from './compressed-config';
import type { RawQuantization } from './config-fields';
import { Fp8Config } from './fp8-config';
import { GptqConfig } from './gptq-config';
import type { QuantizationConfig } from './method';
import { UnquantizedLinearMethod } from './unquantized';

type FromCheckpoint = (config: RawQuantization, types: CheckpointTypes | null) => QuantizationConfig;

/** quant_method of config.json's quantization_config -> how to read it. A method adds its line here. */
const METHODS: Readonly<Record<string, FromCheckpoint>> = {
  fp8: (config) => (config.is_checkpoint_fp8_serialized === false ? Fp8Config.online() : Fp8Config.fromCheckpoint(config)),
  gptq: (config, types) => GptqConfig.fromCheckpoint(config, types),
  awq: (config, types) => AwqConfig.fromCheckpoint(config, types),
  'compressed-tensors': (config) => CompressedTensorsConfig.fromCheckpoint(config),
};

/** Every layer in the model's dtype. */
const UNQUANTIZED: QuantizationConfig = (() => {
  const method = new UnquantizedLinearMethod();
  return { name: 'none', getQuantMethod: () => method };
})();

/**
 * How a checkpoint is quantized.
 * @param raw config.json's quantization_config, or null; or a configuration that was read from it before
 * @param types element types of the checkpoint's tensors, where recipes do not say which layers they left out
 * @throws KvasirError ERR_KVASIR_UNSUPPORTED for a method that is not registered, ERR_KVASIR_QUANTIZATION for a wrong configuration
 */
export function quantizationFromCheckpoint(raw: unknown, types: CheckpointTypes | null = null): QuantizationConfig {
  if (raw === null || raw === undefined) return UNQUANTIZED;
  if (typeof (raw as QuantizationConfig).getQuantMethod === 'function') return raw as QuantizationConfig;
  const config = raw as RawQuantization;
  const name = String(config.quant_method);
  const make = Object.hasOwn(METHODS, name) ? METHODS[name] : undefined;
  if (!make) {
    const known = Object.keys(METHODS).join(', ');
    throw new KvasirError('ERR_KVASIR_UNSUPPORTED', `the checkpoint is quantized with "${name}", which is not supported (supported: ${known})`);
  }
  return make(config, types);
}
