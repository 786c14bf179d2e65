import { KvasirError } from '../utils/errors';
import type { Request } from './request';
import { checkStop } from './stop-check';
import type { EngineCoreOutput, ModelRunnerOutput, PositionLogprobs, ScheduledRequest } from './types';

/** An output of `request` that carries no tokens; `fields` add what there is. */
export function requestOutput(request: Request, fields: Partial<EngineCoreOutput> = {}): EngineCoreOutput {
  return {
    requestId: request.requestId,
    newTokenIds: [],
    newLogprobs: null,
    newPromptLogprobs: null,
    finishReason: null,
    stopReason: null,
    numCachedTokens: request.numCachedTokens ?? 0,
    ...fields,
  };
}

/** The worker's results must be parallel to what was scheduled; anything else would give tokens to the wrong request. */
export function checkParallel(scheduled: readonly ScheduledRequest[], out: ModelRunnerOutput): void {
  if (out.sampledTokenIds.length !== scheduled.length || out.logprobs.length !== scheduled.length) {
    throw new KvasirError(
      'ERR_KVASIR_ENGINE_DEAD',
      `expected sampled tokens and logprobs for ${scheduled.length} requests, received ${out.sampledTokenIds.length} and ${out.logprobs.length}`,
    );
  }
}

/**
 * Applies the worker's result for one request: appends the token, decides whether the request ends. The caller frees what
 * a finished request holds.
 * @param index of the request in the step
 * @returns what to report, or null when there is nothing (a prefill chunk)
 */
export function updateRequest(
  request: Request,
  scheduled: ScheduledRequest,
  index: number,
  out: ModelRunnerOutput,
  maxTotalTokens: number,
): EngineCoreOutput | null {
  const error = out.errors.size === 0 ? undefined : out.errors.get(request.requestId);
  if (error !== undefined) return requestOutput(request, { finishReason: 'error', error });

  const newPromptLogprobs = out.promptLogprobs.size === 0 ? null : takePromptLogprobs(request, scheduled, out);
  const tokenId = out.sampledTokenIds[index]!;
  const end = scheduled.numComputedTokens + scheduled.numScheduledTokens;
  if ((tokenId >= 0) !== (end === request.numTokens)) {
    throw new KvasirError(
      'ERR_KVASIR_ENGINE_DEAD',
      `expected request ${request.requestId} with ${request.numTokens} tokens to be given ${end === request.numTokens ? 'a token' : 'no token'} ` +
        `after position ${end - 1}, received ${tokenId}`,
    );
  }
  if (tokenId < 0) return newPromptLogprobs === null ? null : requestOutput(request, { newPromptLogprobs });

  request.appendOutputToken(tokenId);
  request.numPendingTokens--;
  const logprobs = request.samplingParams.logprobs === null ? null : (out.logprobs[index] ?? null);
  const stop = checkStop(request, maxTotalTokens);
  // Written out: this runs for every token.
  return {
    requestId: request.requestId,
    newTokenIds: [tokenId],
    newLogprobs: logprobs === null ? null : [logprobs],
    newPromptLogprobs,
    finishReason: stop === null ? null : stop.finishReason,
    stopReason: stop === null ? null : stop.stopReason,
    numCachedTokens: request.numCachedTokens ?? 0,
  };
}

/** Prompt logprobs of this step that were not reported before a preemption. Entry i belongs to position start + i. */
function takePromptLogprobs(request: Request, scheduled: ScheduledRequest, out: ModelRunnerOutput): readonly PositionLogprobs[] | null {
  const computed = out.promptLogprobs.get(request.requestId);
  if (computed === undefined || request.samplingParams.promptLogprobs === null) return null;
  const fresh = computed.slice(Math.max(0, request.numPromptLogprobsReported - scheduled.numComputedTokens));
  request.numPromptLogprobsReported += fresh.length;
  return fresh.length === 0 ? null : fresh;
}
