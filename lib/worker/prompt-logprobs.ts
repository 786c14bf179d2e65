import type { PositionLogprobs, SchedulerOutput } from '../core/types';
import type { RequestState } from './input-batch';

/** Queues the logprobs of `targets` at token rows of the step's hidden states. */
export type LogprobsAt = (rows: readonly number[], targets: readonly number[], topK: number) => Promise<PositionLogprobs[]>;

/** Log probabilities of prompt tokens for the requests that asked, in pieces that fit the logits workspace. */
export class PromptLogprobs {
  constructor(private readonly maxLogitRows: number) {}

  /**
   * For every scheduled prompt position p with a next prompt token: the logprobs of that token. Queues before it returns; null
   * when no request of the step wants any.
   * @param states the requests of the step in batch order
   */
  queue(step: SchedulerOutput, states: readonly RequestState[], logprobsAt: LogprobsAt): Promise<ReadonlyMap<string, readonly PositionLogprobs[]>> | null {
    const pending: Promise<readonly [string, PositionLogprobs[]]>[] = [];
    let start = 0;
    for (let index = 0; index < states.length; index++) {
      const s = step.scheduled[index]!;
      const { samplingParams, tokenIds, numPromptTokens } = states[index]!;
      const topK = samplingParams.promptLogprobs;
      const first = s.numComputedTokens;
      const count = Math.min(s.numScheduledTokens, numPromptTokens - 1 - first);
      if (topK !== null && count > 0) {
        const pieces: Promise<PositionLogprobs[]>[] = [];
        for (let i = 0; i < count; i += this.maxLogitRows) {
          const n = Math.min(this.maxLogitRows, count - i);
          const rows = Array.from({ length: n }, (_, j) => start + i + j);
          pieces.push(logprobsAt(rows, tokenIds.slice(first + i + 1, first + i + 1 + n), topK));
        }
        pending.push(Promise.all(pieces).then((parts) => [s.requestId, parts.flat()] as const));
      }
      start += s.numScheduledTokens;
    }
    return pending.length === 0 ? null : Promise.all(pending).then((entries) => new Map(entries));
  }
}
