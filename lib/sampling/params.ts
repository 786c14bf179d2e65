import { describeValue } from '../utils/describe-value';
import { KvasirError } from '../utils/errors';
import { nearestName } from '../utils/nearest-name';

/**
 * What a caller may pass (vllm.SamplingParams in camelCase). Fields left out take the defaults of vLLM; `undefined` and
 * `null` both mean "left out".
 */
export interface SamplingParams {
  /** Sequences per prompt. Default 1. */
  n?: number;
  /** -2..2; added once per token that the output already holds. */
  presencePenalty?: number;
  /** -2..2; added per occurrence in the output. */
  frequencyPenalty?: number;
  /** > 0; divides positive and multiplies negative logits of tokens in prompt or output. */
  repetitionPenalty?: number;
  /** >= 0; 0 is greedy. Default 1. */
  temperature?: number;
  /** (0, 1]. */
  topP?: number;
  /** 0 or -1: off. */
  topK?: number;
  /** [0, 1]. */
  minP?: number;
  seed?: number;
  stop?: string | readonly string[];
  stopTokenIds?: readonly number[];
  ignoreEos?: boolean;
  /** Default 16; null: up to maxModelLen. */
  maxTokens?: number | null;
  minTokens?: number;
  /** Top log probabilities per output token, besides the sampled one's. */
  logprobs?: number;
  promptLogprobs?: number;
  detokenize?: boolean;
  skipSpecialTokens?: boolean;
  spacesBetweenSpecialTokens?: boolean;
  includeStopStrInOutput?: boolean;
  /** What a stream yields: everything so far, only what is new, or one final output. */
  outputKind?: 'cumulative' | 'delta' | 'final';
  /** token id -> bias in -100..100, added to its logit. */
  logitBias?: Readonly<Record<number, number>>;
  allowedTokenIds?: readonly number[];
}

/** {@link SamplingParams} after validation: every field present, plain data. */
export interface ResolvedSamplingParams {
  readonly n: number;
  readonly presencePenalty: number;
  readonly frequencyPenalty: number;
  readonly repetitionPenalty: number;
  /** 0 means greedy (values below 1e-5 become 0). */
  readonly temperature: number;
  readonly topP: number;
  /** 0 means off. */
  readonly topK: number;
  readonly minP: number;
  /** Always set: an unseeded request gets one from the engine's seed and its arrival number. */
  readonly seed: number;
  readonly stop: readonly string[];
  readonly stopTokenIds: readonly number[];
  /** The model's end-of-sequence ids, empty with ignoreEos. */
  readonly eosTokenIds: readonly number[];
  readonly maxTokens: number;
  readonly minTokens: number;
  readonly logprobs: number | null;
  readonly promptLogprobs: number | null;
  readonly detokenize: boolean;
  readonly skipSpecialTokens: boolean;
  readonly spacesBetweenSpecialTokens: boolean;
  readonly includeStopStrInOutput: boolean;
  readonly outputKind: 'cumulative' | 'delta' | 'final';
  /** Pairs [token id, bias]; null when empty. */
  readonly logitBias: readonly (readonly [number, number])[] | null;
  readonly allowedTokenIds: readonly number[] | null;
}

/** What the check of a request's parameters needs to know of the engine and of its prompt. */
export interface SamplingContext {
  /** Width of the logits: the bound of every token id (a tokenizer may know fewer or more). */
  readonly vocabSize: number;
  readonly maxModelLen: number;
  /** Tokens of the prompt; smaller than maxModelLen. */
  readonly promptLen: number;
  readonly eosTokenIds: readonly number[];
  /** Cap of logprobs and promptLogprobs; -1 allows the whole vocabulary. */
  readonly maxLogprobs: number;
  /** Seed of a request that brings none. */
  readonly defaultSeed: number;
}

/** Caps that keep one request from making the engine copy without bound (n is a multiplier, so its cap is the smallest). */
export const SAMPLING_LIMITS = {
  n: 128,
  stopStrings: 16,
  stopStringBytes: 1024,
  stopTokenIds: 128,
  logitBiasEntries: 1024,
  logitBias: 100,
  /** Past these the sampler's float32 would overflow or divide by zero, and masked logits become NaN. */
  temperature: 1e6,
  repetitionPenalty: [1e-6, 1e6],
} as const;

/** Below this temperature a request is greedy (vllm.sampling_params._SAMPLING_EPS). */
export const GREEDY_TEMPERATURE = 1e-5;
const DEFAULT_MAX_TOKENS = 16;
const OUTPUT_KINDS = ['cumulative', 'delta', 'final'] as const;

/** Fields of vLLM's SamplingParams that are known but not implemented. */
const UNSUPPORTED_FIELDS = [
  'structuredOutputs', 'guidedDecoding', 'badWords', 'thinkingTokenBudget', 'logprobTokenIds', 'repetitionDetection', 'logitsProcessors',
] as const;

/** Checks one field: returns the normalized value or throws; never called with undefined or null. */
type FieldCheck<T> = (value: unknown, field: string, ctx: SamplingContext) => T;
type FieldValue<K extends keyof SamplingParams> = K extends 'stop' ? readonly string[]
  : K extends 'logitBias' ? readonly (readonly [number, number])[]
  : NonNullable<SamplingParams[K]>;

/** The one table of checks; a field of {@link SamplingParams} without a row does not compile. */
const FIELDS: { readonly [K in keyof Required<SamplingParams>]: FieldCheck<FieldValue<K>> } = {
  n: integer(1, SAMPLING_LIMITS.n),
  presencePenalty: number(-2, 2),
  frequencyPenalty: number(-2, 2),
  repetitionPenalty: number(...SAMPLING_LIMITS.repetitionPenalty),
  temperature: number(0, SAMPLING_LIMITS.temperature),
  topP: number(0, 1, { exclusiveMin: true }),
  topK: integer(-1, Number.MAX_SAFE_INTEGER),
  minP: number(0, 1),
  seed: integer(Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER),
  stop: checkStop,
  stopTokenIds: tokenIds(() => SAMPLING_LIMITS.stopTokenIds),
  ignoreEos: checkBoolean,
  maxTokens: integer(1, Number.MAX_SAFE_INTEGER),
  minTokens: integer(0, Number.MAX_SAFE_INTEGER),
  logprobs: checkLogprobs,
  promptLogprobs: checkLogprobs,
  detokenize: checkBoolean,
  skipSpecialTokens: checkBoolean,
  spacesBetweenSpecialTokens: checkBoolean,
  includeStopStrInOutput: checkBoolean,
  outputKind: checkOutputKind,
  logitBias: checkLogitBias,
  allowedTokenIds: (value, field, ctx) => {
    const ids = tokenIds((c) => c.vocabSize)(value, field, ctx);
    if (ids.length === 0) throw invalid(field, 'at least one token id', value);
    return ids;
  },
};

type Checked = { [K in keyof SamplingParams]: K extends 'maxTokens' ? number | null : FieldValue<K> };

/**
 * Checks every field of a request's parameters and fills in vLLM's defaults (vllm.SamplingParams.__post_init__ and
 * _verify_args). Each property of `params` is read once.
 * Errors: ERR_KVASIR_PARAMS (unknown field, wrong type, out of range, contradicting fields) and ERR_KVASIR_UNSUPPORTED.
 */
export function resolveSamplingParams(params: SamplingParams | null | undefined, ctx: SamplingContext): ResolvedSamplingParams {
  const given = checkFields(params, ctx);
  const temperature = given.temperature ?? 1;
  const greedy = temperature < GREEDY_TEMPERATURE;
  const n = given.n ?? 1;
  const room = ctx.maxModelLen - ctx.promptLen;
  // `maxTokens: null` asks for all the room, while leaving it out means vLLM's default of 16.
  const asked = given.maxTokens === undefined ? DEFAULT_MAX_TOKENS : given.maxTokens ?? Infinity;
  const minTokens = given.minTokens ?? 0;
  const stop = given.stop ?? [];
  const detokenize = given.detokenize ?? true;
  if (greedy && n > 1) throw invalid('n', '1 with greedy sampling (temperature 0)', n);
  if (minTokens > asked) throw invalid('minTokens', `at most maxTokens (${asked})`, minTokens);
  if (!detokenize && stop.length > 0) throw invalid('stop', 'no stop strings with detokenize: false, since they are looked for in the text', stop);
  const topK = given.topK ?? 0;
  const maxTokens = Math.min(asked, room);
  return {
    n,
    presencePenalty: given.presencePenalty ?? 0,
    frequencyPenalty: given.frequencyPenalty ?? 0,
    repetitionPenalty: given.repetitionPenalty ?? 1,
    temperature: greedy ? 0 : temperature,
    topP: greedy ? 1 : given.topP ?? 1,
    topK: greedy || topK <= 0 || topK >= ctx.vocabSize ? 0 : topK,
    minP: greedy ? 0 : given.minP ?? 0,
    seed: given.seed ?? ctx.defaultSeed,
    stop,
    stopTokenIds: given.stopTokenIds ?? [],
    eosTokenIds: given.ignoreEos ? [] : ctx.eosTokenIds,
    maxTokens,
    minTokens: Math.min(minTokens, maxTokens),
    logprobs: given.logprobs ?? null,
    promptLogprobs: given.promptLogprobs ?? null,
    detokenize,
    skipSpecialTokens: given.skipSpecialTokens ?? true,
    spacesBetweenSpecialTokens: given.spacesBetweenSpecialTokens ?? true,
    includeStopStrInOutput: given.includeStopStrInOutput ?? false,
    outputKind: given.outputKind ?? 'cumulative',
    logitBias: given.logitBias?.length ? given.logitBias : null,
    allowedTokenIds: given.allowedTokenIds ?? null,
  };
}

/** The fields of `defaults` (generation_config.json in camelCase) that are sampling parameters. */
export function defaultSamplingParams(defaults: Readonly<Record<string, number>>): SamplingParams {
  return Object.fromEntries(Object.entries(defaults).filter(([name]) => Object.hasOwn(FIELDS, name)));
}

function checkFields(params: SamplingParams | null | undefined, ctx: SamplingContext): Checked {
  if (params === undefined || params === null) return {};
  if (typeof params !== 'object' || Array.isArray(params) || ArrayBuffer.isView(params)) {
    throw new KvasirError('ERR_KVASIR_PARAMS', `Sampling parameters: expected an object, received ${describeValue(params)}`);
  }
  const checked: Record<string, unknown> = {};
  for (const [field, value] of Object.entries(params as Record<string, unknown>)) {
    if ((UNSUPPORTED_FIELDS as readonly string[]).includes(field)) {
      if (value === undefined || value === null) continue;
      throw new KvasirError('ERR_KVASIR_UNSUPPORTED', `Sampling parameter ${field} is not implemented; leave it out`);
    }
    if (!Object.hasOwn(FIELDS, field)) {
      const hint = nearestName(field, Object.keys(FIELDS));
      throw new KvasirError('ERR_KVASIR_PARAMS', `Unknown sampling parameter '${field.slice(0, 64)}'${hint === null ? '' : `; did you mean '${hint}'?`}`);
    }
    if (value === null && field === 'maxTokens') checked[field] = null;
    if (value === undefined || value === null) continue;
    checked[field] = FIELDS[field as keyof SamplingParams](value, field, ctx);
  }
  return checked as Checked;
}

function invalid(field: string, expected: string, received: unknown): KvasirError {
  return new KvasirError('ERR_KVASIR_PARAMS', `Sampling parameter ${field}: expected ${expected}, received ${describeValue(received)}`);
}

function number(min: number, max: number, options?: { exclusiveMin: boolean }): FieldCheck<number> {
  const low = options?.exclusiveMin ? `above ${min}` : `of at least ${min}`;
  const expected = `a number ${low} and at most ${max}`;
  return (value, field) => {
    const ok = typeof value === 'number' && value <= max && (options?.exclusiveMin ? value > min : value >= min);
    if (!ok) throw invalid(field, expected, value);
    return value;
  };
}

function integer(min: number, max: number): FieldCheck<number> {
  return (value, field) => {
    if (typeof value !== 'number' || !Number.isInteger(value) || value < min || value > max) throw invalid(field, `an integer in ${min}..${max}`, value);
    return value;
  };
}

function checkBoolean(value: unknown, field: string): boolean {
  if (typeof value !== 'boolean') throw invalid(field, 'true or false', value);
  return value;
}

function checkOutputKind(value: unknown, field: string): (typeof OUTPUT_KINDS)[number] {
  const kind = OUTPUT_KINDS.find((k) => k === value);
  if (kind === undefined) throw invalid(field, `one of ${OUTPUT_KINDS.join(', ')}`, value);
  return kind;
}

function checkLogprobs(value: unknown, field: string, ctx: SamplingContext): number {
  if (ctx.maxLogprobs === -1) return value === -1 ? ctx.vocabSize : integer(0, ctx.vocabSize)(value, field, ctx);
  return Math.min(integer(0, ctx.maxLogprobs)(value, field, ctx), ctx.vocabSize);
}

function checkStop(value: unknown, field: string): readonly string[] {
  const list: unknown = typeof value === 'string' ? [value] : value;
  if (!Array.isArray(list)) throw invalid(field, 'a string or an array of strings', value);
  if (list.length > SAMPLING_LIMITS.stopStrings) throw invalid(field, `at most ${SAMPLING_LIMITS.stopStrings} strings`, list);
  return Array.from(list, (item: unknown, i) => {
    const ok = typeof item === 'string' && item.length > 0 && Buffer.byteLength(item) <= SAMPLING_LIMITS.stopStringBytes;
    if (!ok) throw invalid(`${field}[${i}]`, `a string of 1 to ${SAMPLING_LIMITS.stopStringBytes} UTF-8 bytes`, item);
    return item;
  });
}

function tokenIds(maxLength: (ctx: SamplingContext) => number): FieldCheck<readonly number[]> {
  return (value, field, ctx) => {
    if (!Array.isArray(value)) throw invalid(field, 'an array of token ids', value);
    if (value.length > maxLength(ctx)) throw invalid(field, `at most ${maxLength(ctx)} token ids`, value);
    const inVocab = integer(0, ctx.vocabSize - 1);
    return [...new Set(Array.from(value, (id: unknown, i) => inVocab(id, `${field}[${i}]`, ctx)))];
  };
}

function checkLogitBias(value: unknown, field: string, ctx: SamplingContext): readonly (readonly [number, number])[] {
  if (typeof value !== 'object' || value === null || Array.isArray(value) || value instanceof Map) {
    throw invalid(field, 'an object of token id -> bias', value);
  }
  const entries = Object.entries(value);
  if (entries.length > SAMPLING_LIMITS.logitBiasEntries) {
    throw invalid(field, `at most ${SAMPLING_LIMITS.logitBiasEntries} entries`, `${entries.length} entries`);
  }
  const bias = number(-SAMPLING_LIMITS.logitBias, SAMPLING_LIMITS.logitBias);
  return entries.map(([key, entry]: [string, unknown]) => {
    const id = /^(0|[1-9]\d{0,14})$/.test(key) ? Number(key) : NaN;
    if (!(id < ctx.vocabSize)) throw invalid(`${field} key`, `a token id in 0..${ctx.vocabSize - 1}`, key);
    return [id, bias(entry, `${field}[${id}]`, ctx)] as const;
  });
}
