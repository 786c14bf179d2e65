import type { Request } from './request';
import type { NewRequestData, ScheduledRequest, SchedulerOutput } from './types';

/** A request of a step whose result is outstanding. */
export interface InFlightRequest {
  readonly request: Request;
  /** Of the request when the step was scheduled; more of them since then make the result worthless. */
  readonly numPreemptions: number;
}

/** What a request gets of a step. */
export interface Share extends InFlightRequest {
  readonly scheduled: ScheduledRequest;
  /** The worker has no state for the request: it is new, or resumed after a preemption. */
  readonly isNew: boolean;
}

/** Collects the shares of one step and keeps its token budget. */
export class StepBuilder {
  private readonly list: Share[] = [];
  private remaining: number;

  constructor(maxNumBatchedTokens: number) {
    this.remaining = maxNumBatchedTokens;
  }

  /** Tokens that the step has room for. */
  get budget(): number {
    return this.remaining;
  }

  /** The shares so far, in batch order. */
  get shares(): readonly Share[] {
    return this.list;
  }

  /** Gives a request, which is not in the step yet, tokens after its computed ones. */
  add(request: Request, numTokens: number, blockIds: readonly number[], isNew: boolean): void {
    const { requestId, numComputedTokens, numPreemptions } = request;
    const scheduled = { requestId, numComputedTokens, numScheduledTokens: numTokens, newBlockIds: blockIds };
    this.list.push({ request, numPreemptions, scheduled, isNew });
    this.remaining -= numTokens;
  }

  /** Takes a request out again (it lost its blocks); returns whether it was in. */
  remove(request: Request): boolean {
    // Mostly one of the last: the victim of a preemption is the request that was admitted last.
    let at = this.list.length - 1;
    while (at >= 0 && this.list[at]!.request !== request) at--;
    if (at < 0) return false;
    this.remaining += this.list[at]!.scheduled.numScheduledTokens;
    this.list.splice(at, 1);
    return true;
  }

  /** The finished step. Advances numComputedTokens of its requests; {@link shares} are those in flight. */
  build(removedRequestIds: readonly string[]): SchedulerOutput {
    const newRequests: NewRequestData[] = [];
    const all: ScheduledRequest[] = [];
    let totalNumScheduledTokens = 0;
    for (const { request, scheduled, isNew } of this.list) {
      if (isNew) newRequests.push(newRequestData(request));
      all.push(scheduled);
      request.numComputedTokens += scheduled.numScheduledTokens;
      totalNumScheduledTokens += scheduled.numScheduledTokens;
    }
    return { newRequests, scheduled: all, totalNumScheduledTokens, removedRequestIds };
  }
}

function newRequestData(request: Request): NewRequestData {
  return {
    requestId: request.requestId,
    // The request's own list grows while the step is in flight, so outputs so far need a copy; the prompt never changes.
    tokenIds: request.numOutputTokens === 0 ? request.promptTokenIds : request.tokenIds.slice(),
    numPromptTokens: request.numPromptTokens,
    samplingParams: request.samplingParams,
  };
}
