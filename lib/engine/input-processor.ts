import { resolveSamplingParams, type ResolvedSamplingParams, type SamplingParams } from '../sampling/params';
import type { Tokenizer } from '../tokenizer/tokenizer';
import { describeValue } from '../utils/describe-value';
import { KvasirError } from '../utils/errors';
import type { PromptInput } from './outputs';

/** A request that passed every check: what the engine core and the output processor need of it. */
export interface ProcessedInput {
  readonly prompt: string | null;
  readonly promptTokenIds: readonly number[];
  readonly params: ResolvedSamplingParams;
  readonly cacheSalt: string | undefined;
  readonly priority: number;
}

export interface InputLimits {
  /** Width of the logits and of the embedding: the bound of token ids. */
  readonly vocabSize: number;
  readonly maxModelLen: number;
  /** Tokens that the KV pool holds; a prompt that fills it could never be scheduled. */
  readonly kvCapacity: number;
  readonly eosTokenIds: readonly number[];
  readonly maxLogprobs: number;
  /** Seed of the engine; unseeded requests derive theirs from it. */
  readonly seed: number;
}

const MAX_CACHE_SALT_BYTES = 1024;

/**
 * Turns prompts and parameters into requests; whatever it lets through, the engine core can run (vllm.v1.engine.processor).
 * Errors: ERR_KVASIR_PROMPT, ERR_KVASIR_PROMPT_TOO_LONG, ERR_KVASIR_TOKENIZER, and those of {@link resolveSamplingParams}.
 */
export class InputProcessor {
  private arrivals = 0;

  constructor(
    private readonly limits: InputLimits,
    private readonly tokenizer: Tokenizer | null,
  ) {}

  process(input: PromptInput, params: SamplingParams | null | undefined, priority?: number): ProcessedInput {
    const { prompt, promptTokenIds, cacheSalt } = this.readPrompt(input);
    this.checkLength(promptTokenIds.length);
    if (priority !== undefined && !Number.isSafeInteger(priority)) {
      throw new KvasirError('ERR_KVASIR_PARAMS', `priority: expected an integer, received ${describeValue(priority)}`);
    }
    const resolved = resolveSamplingParams(params, {
      ...this.limits,
      promptLen: promptTokenIds.length,
      defaultSeed: mixSeed(this.limits.seed, this.arrivals),
    });
    if (this.tokenizer === null && resolved.stop.length > 0) {
      throw new KvasirError('ERR_KVASIR_TOKENIZER', 'Stop strings need a tokenizer, and this engine has none; use stopTokenIds');
    }
    // Counted last, so that rejected requests do not change the seeds of the accepted ones.
    this.arrivals++;
    return { prompt, promptTokenIds, params: resolved, cacheSalt, priority: priority ?? 0 };
  }

  /** Token ids of a text, without the checks of a whole prompt. */
  encode(text: string, addSpecialTokens: boolean): number[] {
    if (this.tokenizer === null) {
      throw new KvasirError('ERR_KVASIR_TOKENIZER', 'A text prompt needs a tokenizer, and this engine has none; pass { promptTokenIds }');
    }
    return this.tokenizer.encode(text, { addSpecialTokens });
  }

  private readPrompt(input: PromptInput): { prompt: string | null; promptTokenIds: readonly number[]; cacheSalt: string | undefined } {
    if (typeof input === 'string') return { prompt: input, promptTokenIds: this.encodePrompt(input), cacheSalt: undefined };
    if (typeof input !== 'object' || input === null || Array.isArray(input) || ArrayBuffer.isView(input)) {
      throw new KvasirError('ERR_KVASIR_PROMPT', `Prompt: expected a string, { prompt } or { promptTokenIds }, received ${describeValue(input)}`);
    }
    const { prompt, promptTokenIds, cacheSalt } = input as { prompt?: unknown; promptTokenIds?: unknown; cacheSalt?: unknown };
    if (prompt !== undefined && typeof prompt !== 'string') {
      throw new KvasirError('ERR_KVASIR_PROMPT', `prompt: expected a string, received ${describeValue(prompt)}`);
    }
    const salt = checkCacheSalt(cacheSalt);
    if (promptTokenIds !== undefined) return { prompt: prompt ?? null, promptTokenIds: this.checkTokenIds(promptTokenIds), cacheSalt: salt };
    if (prompt === undefined) {
      throw new KvasirError('ERR_KVASIR_PROMPT', 'Prompt: expected a string, { prompt } or { promptTokenIds }, received an object with neither');
    }
    return { prompt, promptTokenIds: this.encodePrompt(prompt), cacheSalt: salt };
  }

  private encodePrompt(text: string): readonly number[] {
    return this.checkTokenIds(this.encode(text, true));
  }

  private checkTokenIds(value: unknown): readonly number[] {
    const isList = Array.isArray(value) || (ArrayBuffer.isView(value) && !(value instanceof DataView));
    if (!isList) throw new KvasirError('ERR_KVASIR_PROMPT', `promptTokenIds: expected an array of token ids, received ${describeValue(value)}`);
    const given = value as ArrayLike<unknown>;
    // Before the copy: the length is the caller's.
    this.checkLength(given.length);
    const ids = new Array<number>(given.length);
    for (let i = 0; i < given.length; i++) {
      const id = given[i];
      if (typeof id !== 'number' || !Number.isInteger(id) || id < 0 || id >= this.limits.vocabSize) {
        throw new KvasirError('ERR_KVASIR_PROMPT', `promptTokenIds[${i}]: expected an integer in 0..${this.limits.vocabSize - 1}, received ${describeValue(id)}`);
      }
      ids[i] = id;
    }
    return ids;
  }

  private checkLength(length: number): void {
    const { maxModelLen, kvCapacity } = this.limits;
    if (length === 0) throw new KvasirError('ERR_KVASIR_PROMPT', 'Prompt: expected at least one token, received an empty prompt');
    if (length >= maxModelLen) {
      throw new KvasirError(
        'ERR_KVASIR_PROMPT_TOO_LONG',
        `Prompt: expected at most ${maxModelLen - 1} tokens (maxModelLen is ${maxModelLen} and one token must fit after it), received ${length}`,
      );
    }
    if (length + 1 > kvCapacity) {
      throw new KvasirError('ERR_KVASIR_PROMPT_TOO_LONG', `Prompt: expected at most ${kvCapacity - 1} tokens (the KV cache holds ${kvCapacity}), received ${length}`);
    }
  }
}

function checkCacheSalt(value: unknown): string | undefined {
  if (value === undefined || value === null) return undefined;
  if (typeof value !== 'string' || value.length === 0 || Buffer.byteLength(value) > MAX_CACHE_SALT_BYTES) {
    throw new KvasirError('ERR_KVASIR_PROMPT', `cacheSalt: expected a string of 1 to ${MAX_CACHE_SALT_BYTES} UTF-8 bytes, received ${describeValue(value)}`);
  }
  return value;
}

/** A well-spread 32-bit seed for the `arrival`-th request of an engine (the finalizer of MurmurHash3 over both numbers). */
function mixSeed(engineSeed: number, arrival: number): number {
  let h = (Math.imul(engineSeed | 0, 0x9e3779b1) + Math.imul(arrival | 0, 0x85ebca77)) | 0;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}
