import { describeValue } from '../utils/describe-value';
import { checkNumber, isPlainObject, modelConfigError, POSITIVE, type RawConfig, readHfField } from './hf-fields';

/** Rotary embedding parameters, the same whether config.json is in the style of transformers 4 or 5. */
export interface RopeParameters {
  /** default, linear, dynamic, llama3, yarn, longrope, ... ('su' is read as 'longrope'). */
  readonly ropeType: string;
  readonly theta: number;
  /** Share of each head that rotates, 0..1. */
  readonly partialRotaryFactor: number;
  /** The remaining entries under their names in config.json, e.g. factor, low_freq_factor, short_factor. */
  readonly extra: RawConfig;
}

const DEFAULT_THETA = 10000;
const MAX_FACTORS = 4096;

const factor = { kind: 'number', min: POSITIVE, max: 1e6 } as const;
const position = { kind: 'integer', min: 1, max: 2 ** 28 } as const;

/** Numbers inside rope_scaling / rope_parameters, with their ranges. Other numbers must only be finite. */
const ROPE_NUMBERS: Readonly<Record<string, Parameters<typeof checkNumber>[2]>> = {
  factor,
  low_freq_factor: factor,
  high_freq_factor: factor,
  beta_fast: factor,
  beta_slow: factor,
  attention_factor: factor,
  mscale: { kind: 'number', min: -1e6, max: 1e6 },
  mscale_all_dim: { kind: 'number', min: -1e6, max: 1e6 },
  short_mscale: factor,
  long_mscale: factor,
  original_max_position_embeddings: position,
  max_position_embeddings: position,
  rope_theta: { kind: 'number', min: POSITIVE, max: 1e15 },
  partial_rotary_factor: { kind: 'number', min: POSITIVE, max: 1 },
};

/**
 * The rope parameters of a model, or of one layer type when `rope_parameters` is a map of layer types.
 * transformers 4: rope_theta and rope_scaling {rope_type | type, factor, ...}; transformers 5: rope_parameters
 * {rope_type, rope_theta, factor, ...}, or {full_attention: {...}, sliding_attention: {...}}.
 * @throws KvasirError ERR_KVASIR_MODEL_CONFIG
 */
export function ropeParameters(config: RawConfig, layerType?: string): RopeParameters {
  const source = ropeObject(config, layerType);
  const { rope_type: type5, type: type4, rope_theta: theta, partial_rotary_factor: partial, ...extra } = source;
  const ropeType = type5 ?? type4 ?? 'default';
  return {
    ropeType: ropeType === 'su' ? 'longrope' : String(ropeType),
    theta: typeof theta === 'number' ? theta : (readHfField(config, 'ropeTheta') ?? DEFAULT_THETA),
    partialRotaryFactor: typeof partial === 'number' ? partial : (readHfField(config, 'partialRotaryFactor') ?? 1),
    extra,
  };
}

/** Checks every rope object of config.json. */
export function checkRope(config: RawConfig): void {
  for (const key of ['rope_parameters', 'rope_scaling']) {
    const value = config[key];
    if (value === undefined || value === null) continue;
    if (!isPlainObject(value)) throw modelConfigError(`config.json: ${key}: expected an object, received ${describeValue(value)}`);
    for (const [where, entry] of layerObjects(value, key)) checkRopeObject(entry, where);
  }
}

function ropeObject(config: RawConfig, layerType: string | undefined): RawConfig {
  const value = config.rope_parameters ?? config.rope_scaling;
  if (!isPlainObject(value)) return {};
  const nested = layerType === undefined ? undefined : value[layerType];
  if (isPlainObject(nested)) return nested;
  return isPerLayerType(value) ? {} : value;
}

function isPerLayerType(value: RawConfig): boolean {
  const entries = Object.values(value);
  return entries.length > 0 && entries.every((entry) => entry === null || isPlainObject(entry));
}

function layerObjects(value: RawConfig, key: string): (readonly [string, RawConfig])[] {
  if (!isPerLayerType(value)) return [[key, value]];
  return Object.entries(value).flatMap(([type, entry]) => (isPlainObject(entry) ? [[`${key}.${type}`, entry] as const] : []));
}

function checkRopeObject(rope: RawConfig, where: string): void {
  for (const key of ['rope_type', 'type']) {
    const type = rope[key];
    if (type !== undefined && type !== null && typeof type !== 'string') {
      throw modelConfigError(`config.json: ${where}.${key}: expected a string, received ${describeValue(type)}`);
    }
  }
  for (const [key, value] of Object.entries(rope)) {
    const spec = Object.hasOwn(ROPE_NUMBERS, key) ? ROPE_NUMBERS[key] : undefined;
    if (spec !== undefined && value !== null) checkNumber(value, `${where}.${key}`, spec);
  }
  for (const key of ['short_factor', 'long_factor']) {
    if (rope[key] !== undefined && rope[key] !== null) checkFactors(rope[key], `${where}.${key}`);
  }
}

function checkFactors(value: unknown, where: string): void {
  if (!Array.isArray(value) || value.length === 0 || value.length > MAX_FACTORS) {
    throw modelConfigError(`config.json: ${where}: expected an array of 1 to ${MAX_FACTORS} numbers, received ${describeValue(value)}`);
  }
  value.forEach((entry, index) => checkNumber(entry, `${where}[${index}]`, factor));
}
