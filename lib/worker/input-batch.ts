import type { NewRequestData, ScheduledRequest, SchedulerOutput } from '../core/types';
import type { ResolvedSamplingParams } from '../sampling/params';
import { KvasirError } from '../utils/errors';
import type { StepInputs } from './step-inputs';

/** A request as the worker keeps it between steps. */
export interface RequestState {
  readonly requestId: string;
  /** Row of the block table and of the sampler's state. */
  readonly row: number;
  /** Prompt and output so far. */
  readonly tokenIds: number[];
  readonly numPromptTokens: number;
  readonly samplingParams: ResolvedSamplingParams;
  /** Of G KV cache groups, entry i * G + g is the block of tokens [i * blockSize, (i + 1) * blockSize) for group g. */
  readonly blockIds: number[];
  /** Tokens that steps in flight are sampling; they follow tokenIds. */
  numPendingTokens: number;
}

/** Tokens of a request, those included that steps in flight are sampling. */
export function numTokensOf(request: RequestState): number {
  return request.tokenIds.length + request.numPendingTokens;
}

/**
 * The requests of this worker, each in a stable row. A step's inputs are built from small changes: what the scheduler
 * sends is new requests, new blocks and token counts.
 */
export class InputBatch {
  private readonly requests = new Map<string, RequestState>();
  private readonly freeRows: number[];
  /** Those of the step before, while no request came or went: mostly the same ones in the same order. */
  private lastStates: readonly RequestState[] = [];

  constructor(
    maxNumSeqs: number,
    private readonly blockSize: number,
    private readonly numGroups = 1,
  ) {
    this.freeRows = Array.from({ length: maxNumSeqs }, (_, i) => maxNumSeqs - 1 - i);
  }

  get(requestId: string): RequestState {
    const request = this.requests.get(requestId);
    if (!request) throw new KvasirError('ERR_KVASIR_NATIVE', `the scheduler ran request ${requestId}, which the worker does not know`);
    return request;
  }

  /** The requests of a step in batch order. */
  statesOf(scheduled: readonly ScheduledRequest[]): readonly RequestState[] {
    const states = new Array<RequestState>(scheduled.length);
    for (let i = 0; i < states.length; i++) {
      const { requestId } = scheduled[i]!;
      const guess = this.lastStates[i];
      states[i] = guess !== undefined && guess.requestId === requestId ? guess : this.get(requestId);
    }
    this.lastStates = states;
    return states;
  }

  /** Takes a request in; a resumed one starts anew. */
  add(data: NewRequestData): RequestState {
    this.remove(data.requestId);
    const row = this.freeRows.pop();
    if (row === undefined) throw new KvasirError('ERR_KVASIR_NATIVE', 'more requests than maxNumSeqs were scheduled');
    const { requestId, tokenIds, numPromptTokens, samplingParams } = data;
    const request = { requestId, row, tokenIds: tokenIds.slice(), numPromptTokens, samplingParams, blockIds: [], numPendingTokens: 0 };
    this.requests.set(requestId, request);
    this.lastStates = [];
    return request;
  }

  /** Drops a request; its row, or null when it is not here. */
  remove(requestId: string): number | null {
    const request = this.requests.get(requestId);
    if (!request) return null;
    this.requests.delete(requestId);
    this.lastStates = [];
    this.freeRows.push(request.row);
    return request.row;
  }

  /**
   * Fills a step's inputs, tokens of all requests one after another in batch order. Where `inputs` has room for more (one token
   * per request only), requests without a sequence follow: no KV is written or read and nothing is drawn for them.
   * @param states {@link statesOf} the step
   * @returns indices of the requests that get a token: those whose last known token runs in this step. They have the first rows
   *   of logits, in this order; {@link StepInputs.numLogits} counts these, or in a padded step all.
   */
  buildInputs(step: SchedulerOutput, states: readonly RequestState[], inputs: StepInputs): readonly number[] {
    const { words, at } = inputs;
    const drawing: number[] = [];
    let token = 0;
    for (let i = 0; i < states.length; i++) {
      const share = step.scheduled[i]!;
      const state = states[i]!;
      const end = share.numComputedTokens + share.numScheduledTokens;
      this.fillTokens(inputs, token, share, state);
      for (let group = 0; group < this.numGroups; group++) this.fillSlots(inputs, token, share, state, group);
      words[at.queryStartLoc + i] = token;
      token += share.numScheduledTokens;
      words[at.seqLens + i] = end;
      words[at.seqRows + i] = state.row;
      const position = numTokensOf(state);
      if (end < position) continue;
      const k = drawing.push(i) - 1;
      words[at.logitRows + k] = token - 1;
      words[at.sampleRows + k] = state.row;
      words[at.samplePositions + k] = position;
    }
    words[at.queryStartLoc + states.length] = token;
    if (inputs.numSeqs > states.length) pad(inputs, states.length, token);
    else inputs.numLogits = drawing.length;
    return drawing;
  }

  private fillTokens({ words, at }: StepInputs, start: number, share: ScheduledRequest, { tokenIds, row }: RequestState): void {
    const first = share.numComputedTokens;
    for (let i = 0; i < share.numScheduledTokens; i++) {
      const position = first + i;
      const to = start + i;
      // A token that a step in flight is sampling is the last one of the request, and only the device knows it.
      const known = position < tokenIds.length;
      words[at.inputIds + to] = known ? tokenIds[position]! : 0;
      words[at.feedbackRows + to] = known ? -1 : row;
      words[at.positions + to] = position;
    }
  }

  private fillSlots(inputs: StepInputs, start: number, share: ScheduledRequest, { blockIds }: RequestState, group: number): void {
    const { words } = inputs;
    const { blockSize, numGroups } = this;
    let to = inputs.slotsAt(group) + 2 * start;
    const end = share.numComputedTokens + share.numScheduledTokens;
    for (let position = share.numComputedTokens; position < end; position++) {
      const offset = position % blockSize;
      const slot = blockIds[((position - offset) / blockSize) * numGroups + group]! * blockSize + offset;
      // An int64, low word first: arithmetic on BigInts costs more than the rest of this loop.
      words[to++] = slot;
      words[to++] = Math.floor(slot / 2 ** 32);
    }
  }
}

/** Requests of one token without a sequence, from place `start` on. */
function pad(inputs: StepInputs, start: number, firstToken: number): void {
  const { words, at, numSeqs } = inputs;
  for (let i = start; i < numSeqs; i++) {
    const token = firstToken + i - start;
    words[at.inputIds + token] = 0;
    words[at.positions + token] = 0;
    words[at.feedbackRows + token] = -1;
    for (let group = 0; group < inputs.numGroups; group++) words.fill(-1, inputs.slotsAt(group) + 2 * token, inputs.slotsAt(group) + 2 * token + 2);
    words[at.queryStartLoc + i + 1] = token + 1;
    words[at.seqLens + i] = 0;
    words[at.seqRows + i] = 0;
    words[at.logitRows + i] = token;
    words[at.sampleRows + i] = -1;
    words[at.samplePositions + i] = 0;
  }
}
