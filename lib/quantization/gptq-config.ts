import { isPlainInCheckpoint, type CheckpointTypes } from './checkpoint-types';
import { ConfigFields, quantizationError, unsupported, type RawQuantization } from './config-fields';
import { GptqLinearMethod, type GptqOptions } from './gptq';
import type { LinearMethod, QuantizableLayer, QuantizationConfig } from './method';
import { agreed, IS_PART_OF, NameList, type NameRule } from './name-list';
import { atStart } from './patterns';
import { UnquantizedLinearMethod } from './unquantized';

/** A rule of `dynamic`: layers that it matches are skipped, or quantized with other options. */
interface DynamicRule {
  readonly key: string;
  readonly matches: (name: string) => boolean;
  /** Null: skipped. */
  readonly options: GptqOptions | null;
}

type Scheme = { readonly skipped: true } | { readonly skipped: false; readonly options: GptqOptions };

/** Checkpoints of AutoGPTQ and GPTQModel (vllm GPTQConfig). */
export class GptqConfig implements QuantizationConfig {
  readonly name = 'gptq';
  private readonly plain = new UnquantizedLinearMethod();
  private readonly methods = new Map<string, GptqLinearMethod>();
  private readonly dynamicNames: NameList;

  private constructor(
    private readonly options: GptqOptions,
    private readonly dynamic: readonly DynamicRule[],
    private readonly quantized: NameList,
    private readonly quantizesHead: boolean,
    private readonly types: CheckpointTypes | null,
  ) {
    const rule: NameRule = (key, name) => dynamic.some((entry) => entry.key === key && entry.matches(name));
    this.dynamicNames = new NameList('dynamic of quantization "gptq"', dynamic.map(({ key }) => key), rule, "a pattern must match a layer's full name from its start");
  }

  /** @throws KvasirError ERR_KVASIR_QUANTIZATION, ERR_KVASIR_UNSUPPORTED */
  static fromCheckpoint(raw: RawQuantization, types: CheckpointTypes | null): GptqConfig {
    const fields = new ConfigFields(raw);
    const format = fields.choice(['checkpoint_format', 'format'], ['gptq', 'gptq_v2'] as const, 'gptq');
    const options = readOptions(fields, { bits: null, groupSize: null, descAct: false, sym: true, version: format === 'gptq_v2' ? 2 : 1 });
    const dynamic = (fields.object('dynamic')?.objects() ?? []).map(([key, changes]) => readRule(key, changes, options, fields));
    const entries = fields.names('modules_in_block_to_quantize') ?? [];
    const quantized = new NameList('modules_in_block_to_quantize of quantization "gptq"', entries, IS_PART_OF, "an entry must be a part of a layer's full name");
    return new GptqConfig(options, dynamic, quantized, fields.boolean('lm_head', false), types);
  }

  getQuantMethod(layer: QuantizableLayer, prefix: string): LinearMethod | null {
    if (layer.kind === 'attention') return null;
    const isCandidate = layer.kind !== 'embedding' && (layer.kind !== 'lm_head' || this.quantizesHead);
    this.dynamicNames.touch(layer, prefix);
    const isListed = this.isListed(layer, prefix);
    if (!isCandidate || !isListed) return this.plain;
    const scheme = agreed(layer, prefix, 'what the rules in dynamic of quantization "gptq" say', (name) => this.schemeOf(name, layer, prefix), textOf);
    if (scheme.skipped) return this.plain;
    return layer.kind === 'moe' ? null : this.methodOf(scheme.options);
  }

  checkModel(modulePrefixes: Iterable<string>): void {
    const prefixes = [...modulePrefixes];
    this.dynamicNames.checkAllUsed(prefixes);
    this.quantized.checkAllUsed(prefixes);
  }

  /** lm_head is no layer of a block: its own flag decides. */
  private isListed(layer: QuantizableLayer, prefix: string): boolean {
    const isListed = this.quantized.isEmpty ? !isPlainInCheckpoint(this.types, layer, prefix) : this.quantized.has(layer, prefix);
    return isListed || (layer.kind === 'lm_head' && !this.quantized.isEmpty);
  }

  /** The first rule that matches the name of a part counts. A rule for the fused layer itself counts when none is for a part. */
  private schemeOf(name: string, layer: QuantizableLayer, prefix: string): Scheme {
    const ruleOf = (own: string): DynamicRule | undefined => this.dynamic.find((entry) => entry.matches(own));
    const rule = layer.parts.some((part) => ruleOf(part)) ? ruleOf(name) : ruleOf(prefix);
    if (!rule) return { skipped: false, options: this.options };
    return rule.options ? { skipped: false, options: rule.options } : { skipped: true };
  }

  private methodOf(options: GptqOptions): GptqLinearMethod {
    const key = JSON.stringify(options);
    let method = this.methods.get(key);
    if (!method) this.methods.set(key, (method = new GptqLinearMethod(options)));
    return method;
  }
}

function textOf(scheme: Scheme): string {
  if (scheme.skipped) return 'skipped';
  const { bits, groupSize, descAct, sym } = scheme.options;
  return `${bits} bits, group_size ${groupSize}, desc_act ${descAct}, sym ${sym}`;
}

/** `-:pattern` skips, `+:pattern` and `pattern` change options. */
function readRule(key: string, changes: ConfigFields, base: GptqOptions, fields: ConfigFields): DynamicRule {
  const pattern = key.replace(/^[+-]:/, '');
  if (pattern === '') throw fields.wrong(['dynamic'], 'a pattern after the sign', key);
  return { key, matches: atStart(pattern), options: key.startsWith('-:') ? null : readOptions(changes, base) };
}

type Defaults = Omit<GptqOptions, 'bits' | 'groupSize'> & { readonly bits: 4 | 8 | null; readonly groupSize: number | null };

function readOptions(fields: ConfigFields, base: Defaults): GptqOptions {
  const bits = fields.size(['bits', 'w_bit'], base.bits);
  const groupSize = fields.size(['group_size', 'q_group_size'], base.groupSize, true);
  if (bits === null || groupSize === null) throw quantizationError(`${fields.where}: expected bits and group_size, received ${bits === null ? 'no bits' : 'no group_size'}`);
  const descAct = fields.boolean('desc_act', base.descAct);
  const sym = fields.boolean('sym', base.sym);
  if (bits !== 4 && bits !== 8) throw unsupported(`quantization "gptq" is supported with 4 and 8 bits, ${fields.where} has ${bits}`);
  if (bits === 8 && !sym) throw unsupported(`quantization "gptq" with 8 bits is supported with sym true, ${fields.where} has false`);
  return { ...base, bits, groupSize, descAct, sym };
}
