import type { ResolvedSamplingParams } from '../sampling/params';
import { damaged } from './byte-cursor';
import { parseObject } from './failure';

type Check = (value: unknown) => boolean;

const isNumber: Check = (value) => typeof value === 'number' && Number.isFinite(value);
const isInteger: Check = (value) => Number.isSafeInteger(value);
const isBoolean: Check = (value) => typeof value === 'boolean';
const isString: Check = (value) => typeof value === 'string';
const listOf = (check: Check): Check => (value) => Array.isArray(value) && value.every(check);
const orNull = (check: Check): Check => (value) => value === null || check(value);

/** A field without a row does not compile. */
const FIELDS: { readonly [K in keyof Required<ResolvedSamplingParams>]: Check } = {
  n: isInteger,
  presencePenalty: isNumber,
  frequencyPenalty: isNumber,
  repetitionPenalty: isNumber,
  temperature: isNumber,
  topP: isNumber,
  topK: isInteger,
  minP: isNumber,
  seed: isInteger,
  stop: listOf(isString),
  stopTokenIds: listOf(isInteger),
  eosTokenIds: listOf(isInteger),
  maxTokens: isInteger,
  minTokens: isInteger,
  logprobs: orNull(isInteger),
  promptLogprobs: orNull(isInteger),
  detokenize: isBoolean,
  skipSpecialTokens: isBoolean,
  spacesBetweenSpecialTokens: isBoolean,
  includeStopStrInOutput: isBoolean,
  outputKind: (value) => value === 'cumulative' || value === 'delta' || value === 'final',
  logitBias: orNull(listOf((pair) => Array.isArray(pair) && pair.length === 2 && isInteger(pair[0]) && isNumber(pair[1]))),
  allowedTokenIds: orNull(listOf(isInteger)),
};
const CHECKS = Object.entries(FIELDS);

/**
 * Sampling parameters as rank 0 resolved them, from JSON. Ranges were checked there; here every field has its type, and there are no others.
 * @throws KvasirError ERR_KVASIR_RANK
 */
export function parseSamplingParams(text: string): ResolvedSamplingParams {
  const given = parseObject(text);
  if (given === null) throw damaged('sampling parameters that are no JSON object');
  const params: Record<string, unknown> = {};
  for (const [field, check] of CHECKS) {
    const value = given[field];
    if (!Object.hasOwn(given, field) || !check(value)) throw damaged(`sampling parameters without a fitting ${field}`);
    params[field] = value;
  }
  if (Object.keys(given).length !== CHECKS.length) throw damaged('sampling parameters with fields that are not known');
  return params as unknown as ResolvedSamplingParams;
}
