import { describeValue } from '../utils/describe-value';
import { KvasirError } from '../utils/errors';

/** config.json's quantization_config, unchecked. */
export type RawQuantization = Readonly<Record<string, unknown>>;

/** An error about the quantization_config itself. */
export function quantizationError(message: string): KvasirError {
  return new KvasirError('ERR_KVASIR_QUANTIZATION', message);
}

/** A format that exists, but not here. */
export function unsupported(message: string): KvasirError {
  return new KvasirError('ERR_KVASIR_UNSUPPORTED', message);
}

/** Fields of a quantization_config (or an object in it) with the checks that every method needs. */
export class ConfigFields {
  /** @param where for messages, e.g. "quantization_config" */
  constructor(
    private readonly raw: RawQuantization,
    readonly where = 'quantization_config',
  ) {}

  /** The value under the first of `keys` that is there and not null. */
  value(...keys: readonly string[]): unknown {
    const key = keys.find((name) => Object.hasOwn(this.raw, name) && (this.raw[name] ?? null) !== null);
    return key === undefined ? null : this.raw[key];
  }

  /** One of `choices`, or `absent` when there is none. */
  choice<T extends string | number | boolean, A>(keys: readonly string[], choices: readonly T[], absent: A): T | A {
    const value = this.value(...keys);
    if (value === null) return absent;
    if ((choices as readonly unknown[]).includes(value)) return value as T;
    throw this.wrong(keys, `one of ${choices.join(', ')}`, value);
  }

  boolean(key: string, absent: boolean): boolean {
    return this.choice([key], [true, false], absent);
  }

  /** An integer of at least 1; -1 too where it stands for "all". */
  size<A>(keys: readonly string[], absent: A, allowAll = false): number | A {
    const value = this.value(...keys);
    if (value === null) return absent;
    if (Number.isInteger(value) && ((value as number) >= 1 || (allowAll && value === -1))) return value as number;
    throw this.wrong(keys, allowAll ? 'an integer of at least 1, or -1 for all' : 'an integer of at least 1', value);
  }

  /** A list of names; null when it is absent. Lists in the list are flattened. */
  names(...keys: readonly string[]): readonly string[] | null {
    const value = this.value(...keys);
    if (value === null) return null;
    const flat: unknown[] = Array.isArray(value) ? value.flat(2) : [value];
    if (!Array.isArray(value) || !flat.every((name) => typeof name === 'string' && name !== '')) throw this.wrong(keys, 'an array of names', value);
    return flat as string[];
  }

  /** An object's fields; null when it is absent. */
  object(key: string): ConfigFields | null {
    const value = this.value(key);
    if (value === null) return null;
    if (typeof value !== 'object' || Array.isArray(value)) throw this.wrong([key], 'an object', value);
    return new ConfigFields(value as RawQuantization, `${this.where}.${key}`);
  }

  /** Key and fields of every object in this one. */
  objects(): [string, ConfigFields][] {
    return Object.keys(this.raw).map((key) => [key, this.object(key) ?? new ConfigFields({}, `${this.where}.${key}`)]);
  }

  wrong(keys: readonly string[], expected: string, received: unknown): KvasirError {
    return quantizationError(`${this.where}: ${keys.join(' or ')}: expected ${expected}, received ${describeValue(received)}`);
  }
}
