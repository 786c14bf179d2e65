import type { EngineCoreOutput } from '../core/types';
import type { ResolvedSamplingParams } from '../sampling/params';
import { IncrementalDetokenizer } from '../tokenizer/detokenizer';
import type { Tokenizer } from '../tokenizer/tokenizer';
import { KvasirError } from '../utils/errors';
import type { ProcessedInput } from './input-processor';
import { RequestState, type CoreRequestRef } from './request-state';
import type { TokenDecoder } from './sequence-state';

interface Entry {
  readonly request: RequestState;
  readonly ref: CoreRequestRef;
}

/** Holds the requests in flight and turns what the engine core reports into text (vllm.v1.engine.output_processor). */
export class OutputProcessor {
  private readonly requests = new Map<string, RequestState>();
  private readonly entries = new Map<string, Entry>();
  private readonly decodedTokens = new Map<number, string>();

  constructor(private readonly tokenizer: Tokenizer | null) {}

  get numRequests(): number {
    return this.requests.size;
  }

  get(requestId: string): RequestState | undefined {
    return this.requests.get(requestId);
  }

  /** Registers a request; the caller then gives its core requests to the engine core. */
  add(requestId: string, input: ProcessedInput): RequestState {
    if (this.requests.has(requestId)) {
      throw new KvasirError('ERR_KVASIR_PARAMS', `requestId: expected an id that is not in use, received '${requestId}', which is running`);
    }
    const decode: TokenDecoder = input.params.detokenize ? (id) => this.decodeToken(id) : () => null;
    const request = new RequestState(requestId, input, (params) => this.createDetokenizer(params, input.promptTokenIds), decode);
    this.requests.set(requestId, request);
    for (const ref of request.children) this.entries.set(ref.coreId, { request, ref });
    return request;
  }

  /**
   * Takes the outputs of a step; returns the ids that the engine core must drop. What goes wrong with one request (its text, its consumer)
   * fails that request and no other.
   */
  process(outputs: readonly EngineCoreOutput[]): string[] {
    const toAbort: string[] = [];
    for (const output of outputs) {
      const entry = this.entries.get(output.requestId);
      // Outputs of requests that were aborted while the step ran.
      if (entry === undefined) continue;
      const { request, ref } = entry;
      try {
        if (request.apply(ref, output)) toAbort.push(ref.coreId);
        if (ref.sequence.finishReason !== null) this.entries.delete(ref.coreId);
      } catch (error) {
        request.fail(error);
      }
      if (request.ended) toAbort.push(...this.remove(request));
    }
    return toAbort;
  }

  /** The engine core could not take a request: fails it; returns its siblings, which the engine core must drop. */
  failCoreRequest(coreId: string, error: unknown): string[] {
    const entry = this.entries.get(coreId);
    if (entry === undefined) return [];
    this.entries.delete(coreId);
    return this.failRequest(entry.request, error);
  }

  /** Rejects whoever waits for the request; returns the ids that the engine core must drop. */
  failRequest(request: RequestState, error: unknown): string[] {
    request.fail(error);
    return this.remove(request);
  }

  failAll(error: unknown): void {
    for (const request of [...this.requests.values()]) this.failRequest(request, error);
  }

  /** Ends the request with finishReason 'abort'; returns the ids that the engine core must drop. */
  abort(request: RequestState): string[] {
    request.abort();
    return this.remove(request);
  }

  /** Forgets a request whose consumer has gone; returns the ids that the engine core must drop. */
  cancel(request: RequestState): string[] {
    request.cancel();
    return this.remove(request);
  }

  /** Drops the request from the maps; returns the ids of its sequences that the engine core still runs. */
  private remove(request: RequestState): string[] {
    if (this.requests.get(request.requestId) !== request) return [];
    this.requests.delete(request.requestId);
    const running = request.children.map(({ coreId }) => coreId).filter((coreId) => this.entries.has(coreId));
    for (const coreId of running) this.entries.delete(coreId);
    return running;
  }

  private createDetokenizer(params: ResolvedSamplingParams, promptTokenIds: readonly number[]): IncrementalDetokenizer | null {
    if (this.tokenizer === null || !params.detokenize) return null;
    const { skipSpecialTokens, spacesBetweenSpecialTokens } = params;
    return new IncrementalDetokenizer(this.tokenizer, promptTokenIds, { skipSpecialTokens, spacesBetweenSpecialTokens });
  }

  /** Memoized: logprobs name the same tokens over and over. At most one entry per token of the vocabulary. */
  private decodeToken(tokenId: number): string | null {
    if (this.tokenizer === null) return null;
    let text = this.decodedTokens.get(tokenId);
    if (text === undefined) {
      text = this.tokenizer.tokenText(tokenId);
      this.decodedTokens.set(tokenId, text);
    }
    return text;
  }
}
