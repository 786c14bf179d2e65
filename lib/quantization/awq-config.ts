import { AwqLinearMethod } from './awq';
import { isPlainInCheckpoint, type CheckpointTypes } from './checkpoint-types';
import { ConfigFields, unsupported, type RawQuantization } from './config-fields';
import type { LinearMethod, QuantizableLayer, QuantizationConfig } from './method';
import { IS_PART_OF, NameList } from './name-list';
import { UnquantizedLinearMethod } from './unquantized';

/** Checkpoints of AutoAWQ (vllm AWQConfig). */
export class AwqConfig implements QuantizationConfig {
  readonly name = 'awq';
  private readonly plain = new UnquantizedLinearMethod();

  private constructor(
    private readonly method: LinearMethod,
    private readonly skipped: NameList,
    private readonly quantizesHead: boolean,
    private readonly types: CheckpointTypes | null,
  ) {}

  /** @throws KvasirError ERR_KVASIR_QUANTIZATION, ERR_KVASIR_UNSUPPORTED */
  static fromCheckpoint(raw: RawQuantization, types: CheckpointTypes | null): AwqConfig {
    const fields = new ConfigFields(raw);
    const bits = fields.size(['w_bit', 'bits'], null);
    const groupSize = fields.size(['q_group_size', 'group_size'], null, true);
    if (bits === null || groupSize === null) throw fields.wrong(['bits', 'group_size'], 'both', null);
    if (bits !== 4) throw unsupported(`quantization "awq" has 4 bits, the checkpoint has ${bits}`);
    if (!fields.boolean('zero_point', true)) throw unsupported('quantization "awq" without zero points is not supported');
    const version = fields.value('version');
    if (version !== null && String(version).toLowerCase() !== 'gemm') throw unsupported(`quantization "awq" is supported in version gemm, the checkpoint has ${String(version)}`);
    const entries = fields.names('modules_to_not_convert') ?? [];
    const skipped = new NameList('modules_to_not_convert of quantization "awq"', entries, IS_PART_OF, "an entry must be a part of a layer's full name");
    return new AwqConfig(new AwqLinearMethod(groupSize), skipped, fields.boolean('lm_head', false), types);
  }

  getQuantMethod(layer: QuantizableLayer, prefix: string): LinearMethod | null {
    const isSkipped = this.skipped.isEmpty ? isPlainInCheckpoint(this.types, layer, prefix) : this.skipped.has(layer, prefix);
    if (layer.kind === 'attention') return null;
    if (layer.kind === 'moe') return isSkipped ? this.plain : null;
    const isQuantized = layer.kind === 'linear' || (layer.kind === 'lm_head' && this.quantizesHead);
    return isQuantized && !isSkipped ? this.method : this.plain;
  }

  checkModel(modulePrefixes: Iterable<string>): void {
    this.skipped.checkAllUsed([...modulePrefixes]);
  }
}
