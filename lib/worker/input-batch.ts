import type { NewRequestData, ScheduledRequest, SchedulerOutput } from '../core/types';
import type { ResolvedSamplingParams } from '../sampling/params';
import { KvasirError } from '../utils/errors';
import type { StepInputs } from './input-buffers';

/** A request as the worker keeps it between steps. */
export interface RequestState {
  readonly requestId: string;
  /** Row of the block table and of the sampler's state. */
  readonly row: number;
  /** Prompt and output so far. */
  readonly tokenIds: number[];
  readonly numPromptTokens: number;
  readonly samplingParams: ResolvedSamplingParams;
  readonly blockIds: number[];
  /** Tokens that steps in flight are sampling; they follow tokenIds. */
  numPendingTokens: number;
}

/**
 * The requests of this worker, each in a stable row. A step's inputs are built from small changes: what the scheduler
 * sends is new requests, new blocks and token counts.
 */
export class InputBatch {
  private readonly requests = new Map<string, RequestState>();
  private readonly freeRows: number[];

  constructor(
    maxNumSeqs: number,
    private readonly blockSize: number,
  ) {
    this.freeRows = Array.from({ length: maxNumSeqs }, (_, i) => maxNumSeqs - 1 - i);
  }

  get(requestId: string): RequestState {
    const request = this.requests.get(requestId);
    if (!request) throw new KvasirError('ERR_KVASIR_NATIVE', `the scheduler ran request ${requestId}, which the worker does not know`);
    return request;
  }

  /** Takes a request in; a resumed one starts anew. */
  add(data: NewRequestData): RequestState {
    this.remove(data.requestId);
    const row = this.freeRows.pop();
    if (row === undefined) throw new KvasirError('ERR_KVASIR_NATIVE', 'more requests than maxNumSeqs were scheduled');
    const request = { ...data, row, tokenIds: [...data.tokenIds], blockIds: [], numPendingTokens: 0 };
    this.requests.set(data.requestId, request);
    return request;
  }

  /** Drops a request; its row, or null when it is not here. */
  remove(requestId: string): number | null {
    const request = this.requests.get(requestId);
    if (!request) return null;
    this.requests.delete(requestId);
    this.freeRows.push(request.row);
    return request.row;
  }

  /**
   * Host arrays of a step, tokens of all requests one after another in batch order. With `paddedSize` (one token per
   * request only) requests without a sequence are added: no KV is written or read for them.
   */
  buildInputs(step: SchedulerOutput, paddedSize = 0): StepInputs {
    const { scheduled } = step;
    const numTokens = Math.max(step.totalNumScheduledTokens, paddedSize);
    const numSeqs = Math.max(scheduled.length, paddedSize);
    const inputs = {
      inputIds: new Int32Array(numTokens),
      positions: new Int32Array(numTokens),
      slotMapping: new BigInt64Array(numTokens).fill(-1n),
      queryStartLoc: new Int32Array(numSeqs + 1),
      seqLens: new Int32Array(numSeqs),
      seqRows: new Int32Array(numSeqs),
      feedbackRows: new Int32Array(numTokens).fill(-1),
    };
    for (let i = scheduled.length; i < numSeqs; i++) inputs.queryStartLoc[i + 1] = i + 1;
    const slots = new Int32Array(inputs.slotMapping.buffer);
    let token = 0;
    scheduled.forEach((s, i) => {
      const request = this.get(s.requestId);
      this.fillTokens(inputs, slots, token, s, request);
      token += s.numScheduledTokens;
      inputs.queryStartLoc[i + 1] = token;
      inputs.seqLens[i] = s.numComputedTokens + s.numScheduledTokens;
      inputs.seqRows[i] = request.row;
    });
    return inputs;
  }

  /** `slots` are the halves of slotMapping, low word first: arithmetic on BigInts costs more than the rest of this loop. */
  private fillTokens(inputs: StepInputs, slots: Int32Array, start: number, s: ScheduledRequest, { tokenIds, blockIds, row }: RequestState): void {
    for (let i = 0; i < s.numScheduledTokens; i++) {
      const position = s.numComputedTokens + i;
      // A token that a step in flight is sampling is the last one of the request, and only the device knows it.
      if (position < tokenIds.length) inputs.inputIds[start + i] = tokenIds[position]!;
      else inputs.feedbackRows[start + i] = row;
      inputs.positions[start + i] = position;
      const offset = position % this.blockSize;
      const slot = blockIds[(position - offset) / this.blockSize]! * this.blockSize + offset;
      slots[2 * (start + i)] = slot;
      slots[2 * (start + i) + 1] = Math.floor(slot / 2 ** 32);
    }
  }
}
