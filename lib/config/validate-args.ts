import { describeValue } from '../utils/describe-value';
import { KvasirError } from '../utils/errors';
import { nearestName } from '../utils/nearest-name';
import { ENGINE_OPTIONS, type EngineArgs, type EngineOption, type OptionName, type OptionValue } from './options';

/** Options whose default is derived from the model or the machine; null until then. */
type DerivedOption = 'tokenizer' | 'maxModelLen' | 'numKvBlocks' | 'kvCacheBytes' | 'numThreads' | 'cacheDir' | 'tensorParallelSecretFile';

/** {@link EngineArgs} with every field present. */
export type ValidatedEngineArgs = {
  readonly [K in OptionName]-?: NonNullable<EngineArgs[K]> | (K extends DerivedOption ? null : never);
};

/**
 * Checks names, types and ranges against the table of options and fills in defaults.
 * @throws KvasirError ERR_KVASIR_CONFIG naming the first option that is wrong.
 */
export function validateEngineArgs(args: unknown): ValidatedEngineArgs {
  if (typeof args !== 'object' || args === null || Array.isArray(args)) {
    throw configError(`expected an object of engine options, received ${describeValue(args)}`);
  }
  const given = args as Record<string, unknown>;
  const known = new Set<string>(ENGINE_OPTIONS.map((option) => option.name));
  for (const name of Object.keys(given)) {
    if (!known.has(name)) throw unknownOption(name);
  }
  const result: Record<string, OptionValue> = {};
  for (const option of ENGINE_OPTIONS) {
    const value = Object.hasOwn(given, option.name) ? given[option.name] : undefined;
    result[option.name] = value === undefined || value === null ? defaultOf(option) : checkOption(option, value);
  }
  return result as unknown as ValidatedEngineArgs;
}

/** Whether the caller named the option himself (null and undefined are the default). */
export function isGiven(args: EngineArgs, name: OptionName): boolean {
  return args[name] !== undefined && args[name] !== null;
}

function defaultOf(option: EngineOption): OptionValue {
  if (option.type === 'string' && option.required) throw configError(`option '${option.name}' is required`);
  return option.default;
}

function checkOption(option: EngineOption, value: unknown): OptionValue {
  switch (option.type) {
    case 'string':
      if (typeof value === 'string' && value.length > 0 && !value.includes('\0')) return value;
      throw wrongValue(option, 'a non-empty string without NUL characters', value);
    case 'boolean':
      if (typeof value === 'boolean') return value;
      throw wrongValue(option, 'true or false', value);
    case 'enum':
      if (typeof value === 'string' && option.choices.includes(value)) return value;
      throw wrongValue(option, `one of ${option.choices.join(', ')}`, value);
    case 'integer':
    case 'number': {
      const ok = typeof value === 'number' && (option.type === 'integer' ? Number.isSafeInteger(value) : Number.isFinite(value));
      if (ok && value >= option.min && value <= option.max) return value;
      throw wrongValue(option, rangeOf(option.type, option.min, option.max), value);
    }
  }
}

function rangeOf(type: 'integer' | 'number', min: number, max: number): string {
  if (min === max) return String(min);
  return `${type === 'integer' ? 'an integer' : 'a number'} from ${min} to ${max}`;
}

function wrongValue(option: EngineOption, expected: string, value: unknown): KvasirError {
  return configError(`option '${option.name}': expected ${expected}, received ${describeValue(value)}`);
}

function unknownOption(name: string): KvasirError {
  const nearest = nearestName(name, ENGINE_OPTIONS.map((option) => option.name));
  const hint = nearest === null ? `known are ${ENGINE_OPTIONS.map((option) => option.name).join(', ')}` : `did you mean '${nearest}'?`;
  return configError(`unknown option ${describeValue(name)}; ${hint}`);
}

function configError(message: string): KvasirError {
  return new KvasirError('ERR_KVASIR_CONFIG', message);
}
