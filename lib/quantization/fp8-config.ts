import { ConfigFields, quantizationError, type RawQuantization } from './config-fields';
import { Fp8LinearMethod, OnlineFp8LinearMethod, type Fp8Options } from './fp8';
import type { LinearMethod, QuantizableLayer, QuantizationConfig } from './method';
import { EQUALS, NameList } from './name-list';
import { UnquantizedLinearMethod } from './unquantized';

/**
 * Checkpoints with fp8 weights: per part, per output or in blocks; or an unquantized checkpoint that is rounded while it is
 * loaded (vllm Fp8Config). Head and embedding stay as they are.
 */
export class Fp8Config implements QuantizationConfig {
  readonly name = 'fp8';
  private readonly plain = new UnquantizedLinearMethod();

  private constructor(
    private readonly method: LinearMethod,
    private readonly ignored: NameList,
  ) {}

  /** @throws KvasirError ERR_KVASIR_QUANTIZATION, ERR_KVASIR_UNSUPPORTED */
  static fromCheckpoint(raw: RawQuantization): Fp8Config {
    const fields = new ConfigFields(raw);
    fields.choice(['fmt', 'store_dtype'], ['e4m3', 'float8_e4m3fn'], null);
    const activation = fields.choice(['activation_scheme'], ['static', 'dynamic'] as const, 'dynamic');
    const block = readBlock(fields);
    if (block && activation === 'static') throw quantizationError('quantization_config: weight_block_size needs activation_scheme dynamic, received static');
    const [key, ignored] = fields.value('ignored_layers') !== null ? ['ignored_layers', fields.names('ignored_layers')] : ['modules_to_not_convert', fields.names('modules_to_not_convert')];
    const method = new Fp8LinearMethod({ block, activation, scaleName: block ? 'weight_scale_inv' : 'weight_scale' });
    return new Fp8Config(method, new NameList(`${key} of quantization "fp8"`, ignored ?? [], EQUALS, "an entry must equal a layer's full name"));
  }

  /** For a checkpoint that is not quantized. */
  static online(): Fp8Config {
    return new Fp8Config(new OnlineFp8LinearMethod(), new NameList('quantization "fp8"', [], EQUALS, ''));
  }

  getQuantMethod(layer: QuantizableLayer, prefix: string): LinearMethod | null {
    const isIgnored = this.ignored.has(layer, prefix);
    if (layer.kind === 'linear') return isIgnored ? this.plain : this.method;
    return layer.kind === 'attention' || (layer.kind === 'moe' && !isIgnored) ? null : this.plain;
  }

  checkModel(modulePrefixes: Iterable<string>): void {
    this.ignored.checkAllUsed([...modulePrefixes]);
  }
}

function readBlock(fields: ConfigFields): Fp8Options['block'] {
  const value = fields.value('weight_block_size');
  if (value === null) return null;
  const valid = Array.isArray(value) && value.length === 2 && value.every((size) => Number.isInteger(size) && size >= 1);
  if (!valid) throw fields.wrong(['weight_block_size'], 'two positive integers', value);
  const [blockN, blockK] = value as [number, number];
  return { blockN, blockK };
}
