import type { Request } from './request';
import type { NewRequestData, ScheduledRequest, SchedulerOutput } from './types';

interface Share {
  readonly numTokens: number;
  readonly blockIds: readonly number[];
  /** The worker has no state for the request: it is new, or resumed after a preemption. */
  readonly isNew: boolean;
}

/** A request of a step whose result is outstanding. */
export interface InFlightRequest {
  readonly request: Request;
  /** Of the request when the step was scheduled; more of them since then make the result worthless. */
  readonly numPreemptions: number;
}

/** Collects the shares of one step and keeps its token budget. */
export class StepBuilder {
  private readonly shares = new Map<Request, Share>();
  private remaining: number;

  constructor(maxNumBatchedTokens: number) {
    this.remaining = maxNumBatchedTokens;
  }

  /** Tokens that the step has room for. */
  get budget(): number {
    return this.remaining;
  }

  add(request: Request, numTokens: number, blockIds: readonly number[], isNew: boolean): void {
    this.shares.set(request, { numTokens, blockIds, isNew });
    this.remaining -= numTokens;
  }

  /** Takes a request out again (it lost its blocks); returns whether it was in. */
  remove(request: Request): boolean {
    const share = this.shares.get(request);
    if (share === undefined) return false;
    this.shares.delete(request);
    this.remaining += share.numTokens;
    return true;
  }

  /** Requests so far and the tokens each gets, in batch order. */
  *entries(): Generator<[Request, number]> {
    for (const [request, share] of this.shares) yield [request, share.numTokens];
  }

  /** The finished step. Advances numComputedTokens of its requests. */
  build(removedRequestIds: readonly string[]): { step: SchedulerOutput; inFlight: InFlightRequest[] } {
    const newRequests: NewRequestData[] = [];
    const scheduled: ScheduledRequest[] = [];
    const inFlight: InFlightRequest[] = [];
    let totalNumScheduledTokens = 0;
    for (const [request, share] of this.shares) {
      if (share.isNew) newRequests.push(newRequestData(request));
      scheduled.push({
        requestId: request.requestId,
        numComputedTokens: request.numComputedTokens,
        numScheduledTokens: share.numTokens,
        newBlockIds: share.blockIds,
      });
      inFlight.push({ request, numPreemptions: request.numPreemptions });
      request.numComputedTokens += share.numTokens;
      totalNumScheduledTokens += share.numTokens;
    }
    return { step: { newRequests, scheduled, totalNumScheduledTokens, removedRequestIds }, inFlight };
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
