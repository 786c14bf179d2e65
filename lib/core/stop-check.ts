import type { Request } from './request';
import type { FinishReason } from './types';

export interface Stop {
  readonly finishReason: FinishReason;
  /** The stop token id that matched; null for the model's end-of-sequence ids and for 'length'. */
  readonly stopReason: number | null;
}

/**
 * Whether a request ends with the token it has just been given (vllm.v1.core.sched.utils.check_stop).
 *
 * Below minTokens no token stops a request, yet the length limits always do: minTokens cannot ask for more room than
 * there is. Stop strings are the frontend's business, which aborts the request.
 * @param maxTotalTokens prompt and output together: maxModelLen, or less when the KV pool is smaller
 */
export function checkStop(request: Request, maxTotalTokens: number): Stop | null {
  const params = request.samplingParams;
  if (request.numOutputTokens >= params.minTokens) {
    const last = request.lastTokenId;
    if (params.eosTokenIds.includes(last)) return { finishReason: 'stop', stopReason: null };
    if (params.stopTokenIds.includes(last)) return { finishReason: 'stop', stopReason: last };
  }
  if (request.numTokens >= maxTotalTokens || request.numOutputTokens >= params.maxTokens) {
    return { finishReason: 'length', stopReason: null };
  }
  return null;
}
