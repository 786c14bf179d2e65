import type { FinishReason } from '../core/types';
import type { ErrorCode } from '../utils/errors';

/** What a request may start from: text, or token ids (any integer array) that need no tokenizer. */
export type PromptInput = string | TextPrompt | TokensPrompt;

export interface TextPrompt {
  readonly prompt: string;
  /** Requests share prefix-cache blocks only with requests of the same salt. */
  readonly cacheSalt?: string;
}

export interface TokensPrompt {
  readonly promptTokenIds: ArrayLike<number>;
  /** Carried through to RequestOutput.prompt, not read. */
  readonly prompt?: string;
  readonly cacheSalt?: string;
}

/** One candidate at a position. */
export interface LogprobEntry {
  readonly tokenId: number;
  readonly logprob: number;
  /** 1 = the most likely token of the vocabulary. */
  readonly rank: number;
  /** The token alone as text; null without a tokenizer or with `detokenize: false`. */
  readonly decodedToken: string | null;
}

/** The sampled (or prompt) token first, then the top k, best first, without repeating the first. */
export type LogprobsAtPosition = readonly LogprobEntry[];

/** One of the n sequences of a request (vllm.outputs.CompletionOutput). */
export interface CompletionOutput {
  readonly index: number;
  readonly text: string;
  readonly tokenIds: readonly number[];
  /** Sum over all output tokens so far; null unless logprobs were asked for. */
  readonly cumulativeLogprob: number | null;
  readonly logprobs: readonly LogprobsAtPosition[] | null;
  /** null while the sequence runs. */
  readonly finishReason: FinishReason | null;
  /** The stop string or stop token id that ended the sequence; null for the model's own end-of-sequence token. */
  readonly stopReason: string | number | null;
  /** What went wrong, with finishReason 'error'. */
  readonly error: { readonly code: ErrorCode; readonly message: string } | null;
}

/** Milliseconds since the epoch, from a monotonic clock; null for what has not happened yet. */
export interface RequestMetrics {
  readonly arrivalTime: number;
  readonly firstTokenTime: number | null;
  readonly finishedTime: number | null;
}

/**
 * State of a request (vllm.outputs.RequestOutput). `outputs` is ordered by index; outputKind 'cumulative' and 'final' hold all n
 * sequences, 'delta' those with news, and only what is new of them.
 */
export interface RequestOutput {
  readonly requestId: string;
  readonly prompt: string | null;
  readonly promptTokenIds: readonly number[];
  /** One entry per prompt token, the first null; null unless asked for. With 'delta' only in the first output. */
  readonly promptLogprobs: readonly (LogprobsAtPosition | null)[] | null;
  readonly outputs: readonly CompletionOutput[];
  readonly finished: boolean;
  /** Prompt tokens taken from the prefix cache. */
  readonly numCachedTokens: number;
  readonly metrics: RequestMetrics;
}

/** The clock of {@link RequestMetrics}. */
export function now(): number {
  return performance.timeOrigin + performance.now();
}
