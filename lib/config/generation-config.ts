import { describeValue } from '../utils/describe-value';
import { checkNumber, modelConfigError, POSITIVE, type RawConfig } from './hf-fields';

const MAX_EOS_IDS = 1024;

/** Sampling defaults: key in generation_config.json, name in SamplingParams, range. */
const DEFAULTS = [
  { key: 'temperature', name: 'temperature', kind: 'number', min: 0, max: 1e6 },
  { key: 'top_p', name: 'topP', kind: 'number', min: POSITIVE, max: 1 },
  { key: 'top_k', name: 'topK', kind: 'integer', min: -1, max: 2 ** 31 - 1 },
  { key: 'min_p', name: 'minP', kind: 'number', min: 0, max: 1 },
  { key: 'repetition_penalty', name: 'repetitionPenalty', kind: 'number', min: POSITIVE, max: 1e6 },
  { key: 'max_new_tokens', name: 'maxTokens', kind: 'integer', min: 1, max: 2 ** 31 - 1 },
] as const;

/**
 * Token ids that end a sequence: those of generation_config.json, else those of config.json. Ids outside [0, vocabSize)
 * are left out: no model output can ever hold them.
 */
export function eosTokenIds(generation: RawConfig | null, config: RawConfig, vocabSize: number): number[] {
  const fromGeneration = generation?.eos_token_id ?? null;
  const [value, where] =
    fromGeneration !== null
      ? [fromGeneration, 'generation_config.json: eos_token_id']
      : [config.eos_token_id ?? null, 'config.json: eos_token_id'];
  if (value === null) return [];
  const ids: unknown[] = Array.isArray(value) ? value : [value];
  if (ids.length > MAX_EOS_IDS) throw modelConfigError(`${where}: expected at most ${MAX_EOS_IDS} ids, received ${ids.length}`);
  for (const id of ids) {
    if (!Number.isSafeInteger(id)) throw modelConfigError(`${where}: expected integer token ids, received ${describeValue(id)}`);
  }
  return [...new Set(ids as number[])].filter((id) => id >= 0 && id < vocabSize);
}

/** Sampling defaults of generation_config.json in camelCase; none when it says `do_sample: false`. */
export function generationDefaults(generation: RawConfig | null): Record<string, number> {
  const defaults: Record<string, number> = {};
  if (generation === null || generation.do_sample === false) return defaults;
  for (const { key, name, ...range } of DEFAULTS) {
    const value = generation[key];
    if (value === undefined || value === null) continue;
    defaults[name] = checkNumber(value, key, range, 'generation_config.json');
  }
  return defaults;
}
