import type { EngineCoreOutput, EngineCoreRequest } from '../core/types';
import type { ResolvedSamplingParams } from '../sampling/params';
import type { IncrementalDetokenizer } from '../tokenizer/detokenizer';
import type { ProcessedInput } from './input-processor';
import { now, type LogprobsAtPosition, type RequestOutput } from './outputs';
import { SequenceState, logprobEntries, type TokenDecoder } from './sequence-state';

/** One sequence as a request of the engine core. */
export interface CoreRequestRef {
  readonly coreId: string;
  readonly sequence: SequenceState;
}

/**
 * A request with its n sequences (vllm.v1.engine.parallel_sampling.ParentRequest). Outputs are built when a consumer takes them, not when
 * tokens arrive: a slow consumer gets merged outputs and nothing queues up.
 */
export class RequestState {
  readonly children: readonly CoreRequestRef[];
  /** Called once when the request is over, however it ended. */
  onEnd: (() => void) | null = null;
  private readonly arrivalTime = now();
  private firstTokenTime: number | null = null;
  private finishedTime: number | null = null;
  private promptLogprobs: (LogprobsAtPosition | null)[] | null;
  private numCachedTokens = 0;
  private failure: { readonly error: unknown } | null = null;
  private cancelled = false;
  private waiter: { readonly resolve: () => void; readonly reject: (error: unknown) => void } | null = null;

  constructor(
    readonly requestId: string,
    readonly input: ProcessedInput,
    createDetokenizer: (params: ResolvedSamplingParams) => IncrementalDetokenizer | null,
    private readonly decodeToken: TokenDecoder,
  ) {
    const { params } = input;
    this.promptLogprobs = params.promptLogprobs === null ? null : [null];
    this.children = Array.from({ length: params.n }, (_, index) => ({
      // The suffix is always there, so that no id a caller chose can be that of another request's sequence.
      coreId: `${requestId}#${index}`,
      sequence: new SequenceState(index, params, createDetokenizer(params), decodeToken),
    }));
  }

  /** What the engine core runs: one request per sequence, each with its own seed. */
  coreRequests(): EngineCoreRequest[] {
    const { params, promptTokenIds, priority, cacheSalt } = this.input;
    return this.children.map(({ coreId }, index) => ({
      requestId: coreId,
      promptTokenIds,
      samplingParams: {
        ...params,
        n: 1,
        seed: childSeed(params.seed, index),
        // The same for every sequence: asked for once.
        promptLogprobs: index === 0 ? params.promptLogprobs : null,
      },
      arrivalTime: this.arrivalTime,
      priority,
      cacheSalt,
    }));
  }

  /** Every sequence has finished, or the request failed or was cancelled. */
  get ended(): boolean {
    return this.failure !== null || this.cancelled || this.finishedTime !== null;
  }

  get numOutputTokens(): number {
    return this.children.reduce((sum, { sequence }) => sum + sequence.numTokens, 0);
  }

  /** Takes what a step produced for one sequence; true when the engine core must be told to drop it (stop string). */
  apply(ref: CoreRequestRef, output: EngineCoreOutput): boolean {
    if (this.ended || ref.sequence.finishReason !== null) return false;
    if (ref === this.children[0]) this.numCachedTokens = output.numCachedTokens;
    for (const position of output.newPromptLogprobs ?? []) this.promptLogprobs?.push(logprobEntries(position, this.decodeToken));
    if (output.newTokenIds.length > 0) this.firstTokenTime ??= now();
    const stopped = ref.sequence.apply(output);
    this.settle();
    return stopped;
  }

  /** Ends every sequence with finishReason 'abort'; the consumer gets what there is. */
  abort(): void {
    if (this.ended) return;
    for (const { sequence } of this.children) sequence.abort();
    this.settle();
  }

  /** Ends the request with an error for whoever waits or comes to ask. */
  fail(error: unknown): void {
    if (this.ended) return;
    this.failure = { error };
    this.end();
  }

  /** Ends the request for a consumer that has gone. */
  cancel(): void {
    if (this.ended) return;
    this.cancelled = true;
    this.end();
  }

  /** Resolves when {@link takeOutput} has something to give, or the request was cancelled; rejects when it failed. */
  ready(): Promise<void> {
    if (this.failure !== null) return Promise.reject(this.failure.error);
    if (this.ended || this.hasOutput) return Promise.resolve();
    return new Promise((resolve, reject) => {
      this.waiter = { resolve, reject };
    });
  }

  takeOutput(): RequestOutput {
    const delta = this.input.params.outputKind === 'delta';
    const children = delta ? this.children.filter(({ sequence }) => sequence.hasNews) : this.children;
    const promptLogprobs = this.promptLogprobs;
    if (delta) this.promptLogprobs = null;
    return {
      requestId: this.requestId,
      prompt: this.input.prompt,
      promptTokenIds: this.input.promptTokenIds,
      promptLogprobs,
      outputs: children.map(({ sequence }) => sequence.takeOutput(delta)),
      finished: this.finishedTime !== null,
      numCachedTokens: this.numCachedTokens,
      metrics: { arrivalTime: this.arrivalTime, firstTokenTime: this.firstTokenTime, finishedTime: this.finishedTime },
    };
  }

  private get hasOutput(): boolean {
    return this.input.params.outputKind !== 'final' && this.children.some(({ sequence }) => sequence.hasNews);
  }

  private settle(): void {
    if (this.children.every(({ sequence }) => sequence.finishReason !== null)) {
      this.finishedTime = now();
      this.end();
    } else if (this.hasOutput) {
      this.wake();
    }
  }

  private end(): void {
    this.wake();
    this.onEnd?.();
    this.onEnd = null;
  }

  private wake(): void {
    const { waiter } = this;
    this.waiter = null;
    if (this.failure !== null) waiter?.reject(this.failure.error);
    else waiter?.resolve();
  }
}

/** seed + index, kept inside the safe integers, where neighbouring seeds stay distinct. */
function childSeed(seed: number, index: number): number {
  const sum = seed + index;
  return Number.isSafeInteger(sum) ? sum : index - seed;
}
