import { KvasirError } from '../utils/errors';
import type { QuantizableLayer } from './method';

/** Layers that a recipe may name although this model has none of its own. */
const OFTEN_ABSENT = ['lm_head'];

/** Whether an entry of a list means a module of this full name. */
export type NameRule = (entry: string, name: string) => boolean;

export const EQUALS: NameRule = (entry, name) => entry === name;
export const IS_PART_OF: NameRule = (entry, name) => name.includes(entry);

/**
 * One answer for a layer from the answers of its checkpoint names: a fused layer has exactly one scheme (vllm is_layer_skipped).
 * @param question what is asked of each name, for the message
 * @throws KvasirError ERR_KVASIR_QUANTIZATION when the answers differ
 */
export function agreed<T>(layer: QuantizableLayer, prefix: string, question: string, answerOf: (name: string) => T, textOf: (answer: T) => string): T {
  const [first, ...rest] = layer.parts.map((name) => ({ name, answer: answerOf(name) })) as [{ name: string; answer: T }, ...{ name: string; answer: T }[]];
  if (rest.every(({ answer }) => textOf(answer) === textOf(first.answer))) return first.answer;
  const answers = [first, ...rest].map(({ name, answer }) => `${name}: ${textOf(answer)}`).join('; ');
  throw new KvasirError('ERR_KVASIR_QUANTIZATION', `${prefix} is one matrix and must have one scheme, but ${question} differs for its parts: ${answers}`);
}

/** A list of layers in a quantization_config, which remembers what its entries were good for. */
export class NameList {
  private readonly used = new Set<string>();
  private readonly asked = new Set<string>();

  /**
   * @param where `ignored_layers of quantization "fp8"`, for messages
   * @param ruleText "an entry must equal the layer's name", for messages
   */
  constructor(
    private readonly where: string,
    private readonly entries: readonly string[],
    private readonly rule: NameRule,
    private readonly ruleText: string,
  ) {}

  get isEmpty(): boolean {
    return this.entries.length === 0;
  }

  /**
   * Whether the list means this layer: all its parts, or, when it means none of them, the layer's own name (weights that are
   * fused on disk). In this order, because the pattern of a part, say v_proj, may well match qkv_proj too.
   * @throws KvasirError ERR_KVASIR_QUANTIZATION when it means only some of the parts
   */
  has(layer: QuantizableLayer, prefix: string): boolean {
    const own = this.matches(prefix); // everything is asked first, so that every entry counts as used
    const ofParts = new Map(layer.parts.map((name) => [name, this.matches(name)]));
    if (![...ofParts.values()].includes(true)) return own;
    return agreed(layer, prefix, `${this.where} (${this.ruleText})`, (name) => ofParts.get(name)!, (yes) => (yes ? 'listed' : 'not listed'));
  }

  /** Notes that a layer was asked about, without an answer: for lists whose order decides. */
  touch(layer: QuantizableLayer, prefix: string): void {
    for (const name of [prefix, ...layer.parts]) this.matches(name);
  }

  /** An entry was good for something other than a name. */
  markUsed(entry: string): void {
    this.used.add(entry);
  }

  /**
   * A list with an entry that means nothing was written for another model or other names; the model would load and answer nonsense.
   * @throws KvasirError ERR_KVASIR_QUANTIZATION naming the entry
   */
  checkAllUsed(modulePrefixes: readonly string[]): void {
    const layers = [...this.asked];
    const isContainer = (name: string): boolean => layers.some((layer) => layer.startsWith(`${name}.`));
    const others = [...modulePrefixes.filter((name) => name !== '' && !isContainer(name)), ...OFTEN_ABSENT];
    const useless = this.entries.find((entry) => !this.used.has(entry) && !others.some((name) => this.rule(entry, name)));
    if (useless === undefined) return;
    const like = layers.filter((name) => name.includes(useless) || useless.includes(name)).slice(0, 3);
    const hint = like.length ? `; similar layers: ${like.join(', ')}` : '';
    throw new KvasirError('ERR_KVASIR_QUANTIZATION', `${this.where} has the entry "${useless}", which means no layer of the model (${this.ruleText}${hint})`);
  }

  private matches(name: string): boolean {
    this.asked.add(name);
    let found = false;
    for (const entry of this.entries)
      if (this.rule(entry, name)) {
        this.used.add(entry);
        found = true;
      }
    return found;
  }
}
