import type { Tensor } from '../tensor/tensor';
import { call, output } from './run';

/**
 * The sampler's kernels (vllm/v1/sample). State has one stable row per request:
 * `params` float32 [maxNumSeqs, {@link SAMPLING_PARAMS_WIDTH}], `seeds` int32 [maxNumSeqs, 2] (low and high half),
 * `counts` int32 [maxNumSeqs, vocabSize] (bit 30: in the prompt; the rest: occurrences in the output).
 * `rows` int32 [numRows] names the state row of each row of logits [numRows, vocabSize]; -1 is padding.
 */
export const SAMPLING_PARAMS_WIDTH = 8;

/** Places of the values in a row of `params`. */
export const SamplingParam = {
  temperature: 0,
  topP: 1,
  minP: 2,
  topK: 3,
  repetitionPenalty: 4,
  presencePenalty: 5,
  frequencyPenalty: 6,
} as const;

/** Bit of `counts` that marks a token of the prompt. */
export const PROMPT_BIT = 1 << 30;

/** Clears a row of counts and marks the prompt's tokens. ids int32 [n]. */
export function samplingCountPrompt(counts: Tensor, row: number, ids: Tensor): void {
  call('samplingCountPrompt', counts, row, ids);
}

/** Adds output tokens to a row of counts: a request that continues after preemption. ids int32 [n]. */
export function samplingCountOutput(counts: Tensor, row: number, ids: Tensor): void {
  call('samplingCountOutput', counts, row, ids);
}

/** Repetition, frequency and presence penalties, in place; rows without penalties are not touched. */
export function samplingPenalties(logits: Tensor, counts: Tensor, params: Tensor, rows: Tensor): void {
  call('samplingPenalties', logits, counts, params, rows);
}

/** logits[logitRow, ids[i]] += values[i]. ids int32 [n], values float32 [n]. */
export function samplingBias(logits: Tensor, logitRow: number, ids: Tensor, values: Tensor): void {
  call('samplingBias', logits, logitRow, ids, values);
}

/** Sets the ids of a row to -infinity, or with `keep` all others. ids int32 [n]. */
export function samplingMask(logits: Tensor, logitRow: number, ids: Tensor, keep: boolean): void {
  call('samplingMask', logits, logitRow, ids, keep);
}

export interface SampledLogprobs {
  /** float32 [numRows]; NaN for a row with NaN or for a target outside the vocabulary. */
  readonly logprob: Tensor;
  /** int32 [numRows], 1 = most probable; 0 for a target outside the vocabulary. */
  readonly rank: Tensor;
  /** int32 [numRows, topK], most probable first, the lower id first among equals; null when topK is 0. */
  readonly topIds: Tensor | null;
  /** float32 [numRows, topK]. */
  readonly topLogprobs: Tensor | null;
}

/**
 * Log-softmax of logits at the targets and for the topK most probable tokens.
 * @param targets int32 [numRows], also straight from {@link sample}
 * @param topK 0 to vocabSize
 */
export function samplingLogprobs(logits: Tensor, targets: Tensor, topK: number): SampledLogprobs {
  const numRows = logits.size(0);
  const result = {
    logprob: output([numRows], 'float32'),
    rank: output([numRows], 'int32'),
    topIds: topK > 0 ? output([numRows, topK], 'int32') : null,
    topLogprobs: topK > 0 ? output([numRows, topK], 'float32') : null,
  };
  call('samplingLogprobs', result.logprob, result.rank, result.topIds, result.topLogprobs, logits, targets);
  return result;
}

/**
 * Draws a token per row: temperature, min-p, top-k, top-p, then Gumbel-max with noise that depends on (seed, position, token)
 * alone, so that a request's tokens do not depend on its batch. Temperature 0 takes the largest logit, the lowest id on ties.
 * Rows with NaN or only -infinity, and padding, give -1. With `counts`, rows that have penalties count their new token.
 * @param outIds int32 [numRows]
 * @param positions int32 [numRows], the position of the token that is drawn
 */
export function sample(
  outIds: Tensor,
  logits: Tensor,
  params: Tensor,
  seeds: Tensor,
  positions: Tensor,
  rows: Tensor,
  counts: Tensor | null,
): void {
  call('sample', outIds, logits, params, seeds, positions, rows, counts);
}

/** Most pairs in a row of candidates for {@link sampleTop}. */
export const MAX_CANDIDATES = 2048;

/**
 * The k largest of each row of a rank's part of the logits, a larger one first, the lower id first among equals (vllm LogitsProcessor
 * get_top_tokens).
 * @param logits float32 [numRows, n]; only the first `numValid` columns count
 * @param k 1 to 512
 * @param firstId token id of the first column
 * @returns int32 [numRows, 2 * k]: pairs of a value's float32 bits and its token id; -infinity and -1 where there is no further token, NaN
 *   and -1 in the first place alone for a row with NaN
 */
export function samplingTop(logits: Tensor, k: number, firstId: number, numValid: number): Tensor {
  const out = output([logits.size(0), 2 * k], 'int32');
  call('samplingTop', out, logits, firstId, numValid);
  return out;
}

/**
 * As {@link sample}, from candidates of each row: the same token, if they have all that temperature and top-k leave. Nothing is counted.
 * @param outIds int32 [numRows]
 * @param candidates int32 [numRows, 2 * n], up to {@link MAX_CANDIDATES} pairs as of {@link samplingTop}, in any order
 */
export function sampleTop(outIds: Tensor, candidates: Tensor, params: Tensor, seeds: Tensor, positions: Tensor, rows: Tensor): void {
  call('sampleTop', outIds, candidates, params, seeds, positions, rows);
}
