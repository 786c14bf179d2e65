import { methodOfGroup } from './compressed-scheme';
import { ConfigFields, quantizationError, unsupported, type RawQuantization } from './config-fields';
import { kvCacheDtypeOfScheme } from './kv-cache';
import type { LinearMethod, QuantizableLayer, QuantizationConfig } from './method';
import { agreed, NameList } from './name-list';
import { nameOrPattern } from './patterns';
import { UnquantizedLinearMethod } from './unquantized';

const RULE = "an entry must equal a layer's full name, or be re: and a regular expression that matches it from its start";

interface Target {
  readonly text: string;
  readonly group: string;
  readonly method: LinearMethod | null;
}

/** Checkpoints of llm-compressor (vllm CompressedTensorsConfig): groups of layers by name or class, each with its scheme. */
export class CompressedTensorsConfig implements QuantizationConfig {
  readonly name = 'compressed-tensors';
  private readonly plain = new UnquantizedLinearMethod();
  private readonly targetNames: NameList;
  private readonly byName: ReturnType<typeof nameOrPattern>;

  private constructor(
    private readonly targets: readonly Target[],
    private readonly ignored: NameList,
    readonly kvCacheDtype: 'float8_e4m3' | undefined,
  ) {
    const texts = targets.map(({ text }) => text);
    this.byName = nameOrPattern(texts);
    this.targetNames = new NameList('targets of quantization "compressed-tensors"', texts, this.byName, `${RULE}, or be a part of the name of a layer's class`);
  }

  /** @throws KvasirError ERR_KVASIR_QUANTIZATION, ERR_KVASIR_UNSUPPORTED */
  static fromCheckpoint(raw: RawQuantization): CompressedTensorsConfig {
    const fields = new ConfigFields(raw);
    const sparsity = fields.object('sparsity_config');
    const sparseFormat = sparsity?.value('format') ?? 'dense';
    if (sparseFormat !== 'dense') throw unsupported(`${sparsity!.where}: format ${String(sparseFormat)} is not supported, expected dense`);
    const transforms = fields.object('transform_config');
    if (transforms?.objects().length) throw unsupported(`${transforms.where}: transforms of weights are not supported`);
    const format = fields.value('format');
    const groups = fields.object('config_groups')?.objects() ?? [];
    const kvScheme = fields.object('kv_cache_scheme');
    if (groups.length === 0 && !kvScheme) throw quantizationError(`${fields.where}: config_groups: expected at least one group, received none`);
    const targets = groups.flatMap(([group, groupFields]) => {
      const method = methodOfGroup(groupFields, format === null ? null : String(format));
      return (groupFields.names('targets') ?? []).map((text) => ({ text, group, method }));
    });
    const ignore = fields.names('ignore') ?? [];
    const ignored = new NameList('ignore of quantization "compressed-tensors"', ignore, nameOrPattern(ignore), RULE);
    return new CompressedTensorsConfig(targets, ignored, kvScheme ? kvCacheDtypeOfScheme(kvScheme) : undefined);
  }

  getQuantMethod(layer: QuantizableLayer, prefix: string): LinearMethod | null {
    if (layer.kind === 'attention') return null;
    this.targetNames.touch(layer, prefix);
    if (this.ignored.has(layer, prefix)) return this.plain;
    const textOf = (target: Target | null): string => target?.group ?? 'no group';
    const target = agreed(layer, prefix, 'the group in config_groups of quantization "compressed-tensors"', (name) => this.targetOf(layer, prefix, name), textOf);
    if (layer.kind === 'embedding' || !target?.method) return this.plain;
    return layer.kind === 'moe' ? null : target.method;
  }

  checkModel(modulePrefixes: Iterable<string>): void {
    const prefixes = [...modulePrefixes];
    this.targetNames.checkAllUsed(prefixes);
    this.ignored.checkAllUsed(prefixes);
  }

  /** By the name of the part (that of the fused layer when no part has one), then by class. */
  private targetOf(layer: QuantizableLayer, prefix: string, name: string): Target | null {
    // Whatever a layer is called here, where it was quantized it was a Linear.
    const classes = [layer.className, ...(layer.kind === 'linear' || layer.kind === 'lm_head' ? ['Linear'] : [])].map((text) => text.toLowerCase());
    const byClass = this.targets.filter(({ text }) => classes.some((own) => own.includes(text.toLowerCase())));
    for (const { text } of byClass) this.targetNames.markUsed(text);
    const named = (own: string): Target | undefined => this.targets.find(({ text }) => this.byName(text, own));
    return (layer.parts.some((part) => named(part)) ? named(name) : named(prefix)) ?? byClass[0] ?? null;
  }
}
