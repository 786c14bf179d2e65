/**
 * The fields of config.json that Kvasir reads, each with the keys under which model families store it and the range it
 * must lie in. Everything that reads a size from config.json goes through this table, so that a check and a use can
 * never look at two different keys.
 */
import { describeValue } from '../utils/describe-value';
import { KvasirError } from '../utils/errors';

interface FieldSpec {
  /** Accepted keys; the first one that is present (and not null) counts. */
  readonly keys: readonly string[];
  readonly kind: 'integer' | 'number';
  readonly min: number;
  readonly max: number;
}

const size = (max: number, ...keys: string[]): FieldSpec => ({ keys, kind: 'integer', min: 1, max });
const count = (max: number, ...keys: string[]): FieldSpec => ({ keys, kind: 'integer', min: 0, max });
const real = (min: number, max: number, ...keys: string[]): FieldSpec => ({ keys, kind: 'number', min, max });

/** Smallest float32 that is not subnormal: "> 0" that stays > 0 in the kernels. */
export const POSITIVE = 1.17549435e-38;

export const HF_FIELDS = {
  hiddenSize: size(2 ** 20, 'hidden_size', 'n_embd', 'n_embed', 'd_model'),
  numHiddenLayers: size(4096, 'num_hidden_layers', 'n_layer', 'n_layers', 'num_layers'),
  numAttentionHeads: size(65536, 'num_attention_heads', 'n_head', 'n_heads'),
  numKeyValueHeads: size(65536, 'num_key_value_heads', 'num_kv_heads', 'n_head_kv'),
  headDim: size(8192, 'head_dim'),
  vocabSize: size(2 ** 24, 'vocab_size'),
  intermediateSize: size(2 ** 22, 'intermediate_size', 'ffn_dim', 'n_inner', 'ffn_hidden_size'),
  wordEmbedProjDim: size(2 ** 20, 'word_embed_proj_dim'),
  maxPositionEmbeddings: size(2 ** 28, 'max_position_embeddings', 'n_positions', 'seq_length', 'max_seq_len', 'n_ctx'),
  slidingWindow: size(2 ** 28, 'sliding_window'),
  slidingWindowPattern: size(4096, 'sliding_window_pattern', '_sliding_window_pattern'),
  maxWindowLayers: count(4096, 'max_window_layers'),
  numExperts: count(65536, 'num_local_experts', 'num_experts', 'n_routed_experts'),
  numExpertsPerToken: count(65536, 'num_experts_per_tok'),
  moeIntermediateSize: size(2 ** 22, 'moe_intermediate_size'),
  sharedExpertIntermediateSize: count(2 ** 22, 'shared_expert_intermediate_size'),
  decoderSparseStep: size(4096, 'decoder_sparse_step'),
  normEps: real(POSITIVE, 1, 'rms_norm_eps', 'layer_norm_eps', 'layer_norm_epsilon', 'layernorm_epsilon', 'norm_epsilon', 'norm_eps'),
  ropeTheta: real(POSITIVE, 1e15, 'rope_theta', 'rotary_emb_base'),
  partialRotaryFactor: real(POSITIVE, 1, 'partial_rotary_factor', 'rotary_pct'),
  rotaryDim: size(8192, 'rotary_dim'),
  attnLogitSoftcapping: real(POSITIVE, 1e9, 'attn_logit_softcapping'),
  finalLogitSoftcapping: real(POSITIVE, 1e9, 'final_logit_softcapping'),
  queryPreAttnScalar: real(POSITIVE, 1e9, 'query_pre_attn_scalar'),
} as const satisfies Record<string, FieldSpec>;

export type HfField = keyof typeof HF_FIELDS;
export type RawConfig = Readonly<Record<string, unknown>>;

/**
 * The value of one field, or null when config.json has none of its keys.
 * @throws KvasirError ERR_KVASIR_MODEL_CONFIG when it is not a number in range.
 */
export function readHfField(config: RawConfig, field: HfField): number | null {
  const spec: FieldSpec = HF_FIELDS[field];
  const key = spec.keys.find((name) => Object.hasOwn(config, name) && (config[name] ?? null) !== null);
  if (key === undefined) return null;
  return checkNumber(config[key], key, spec);
}

/** {@link readHfField} for a field that every model needs. */
export function requireHfField(config: RawConfig, field: HfField): number {
  const value = readHfField(config, field);
  if (value !== null) return value;
  const [first, ...others] = HF_FIELDS[field].keys;
  const alias = others.length > 0 ? ` (or ${others.join(', ')})` : '';
  throw modelConfigError(`config.json: expected '${first}'${alias}, received none of them`);
}

/** Checks a number that stands under `name`; shared with the nested rope parameters. */
export function checkNumber(value: unknown, name: string, spec: Omit<FieldSpec, 'keys'>, file = 'config.json'): number {
  const ok = typeof value === 'number' && (spec.kind === 'integer' ? Number.isSafeInteger(value) : Number.isFinite(value));
  if (ok && value >= spec.min && value <= spec.max) return value;
  const range = spec.min === POSITIVE ? `above 0 up to ${spec.max}` : `from ${spec.min} to ${spec.max}`;
  const what = spec.kind === 'integer' ? 'an integer' : 'a number';
  throw modelConfigError(`${file}: ${name}: expected ${what} ${range}, received ${describeValue(value)}`);
}

/** A boolean of config.json, or `fallback` when absent or null. */
export function readHfBoolean(config: RawConfig, key: string, fallback: boolean): boolean {
  const value = Object.hasOwn(config, key) ? config[key] : null;
  if (value === null || value === undefined) return fallback;
  if (typeof value === 'boolean') return value;
  throw modelConfigError(`config.json: ${key}: expected true or false, received ${describeValue(value)}`);
}

/** A string of config.json, or null when absent or null. */
export function readHfString(config: RawConfig, key: string): string | null {
  const value = Object.hasOwn(config, key) ? config[key] : null;
  if (value === null || value === undefined) return null;
  if (typeof value === 'string') return value;
  throw modelConfigError(`config.json: ${key}: expected a string, received ${describeValue(value)}`);
}

export function isPlainObject(value: unknown): value is RawConfig {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

export function modelConfigError(message: string, cause?: unknown): KvasirError {
  return new KvasirError('ERR_KVASIR_MODEL_CONFIG', message, { cause });
}
