import type { ChatMessage } from '../chat/messages';
import { ChatTemplate, type RenderOptions } from '../chat/template';
import type { VllmConfig } from '../config/vllm';
import type { SchedulerStats, ExecutorInfo } from '../core/types';
import { defaultSamplingParams, type SamplingParams } from '../sampling/params';
import type { Tokenizer } from '../tokenizer/tokenizer';
import { KvasirError } from '../utils/errors';
import type { EngineCoreClient } from './core-client';
import { InputProcessor, type ProcessedInput } from './input-processor';
import type { OutputProcessor } from './output-processor';
import type { PromptInput, RequestOutput } from './outputs';
import type { RequestState } from './request-state';
import { RequestStream } from './request-stream';

export interface RequestOptions {
  /** Aborts the request: the caller gets signal.reason. */
  readonly signal?: AbortSignal;
  /** Lower runs first, with schedulingPolicy 'priority'. Default 0. */
  readonly priority?: number;
}

export interface StreamOptions extends RequestOptions {
  /** Names the request for abort(); must not be in use. Default: a number the engine counts up. */
  readonly requestId?: string;
}

/** How messages become a prompt; see ChatTemplate.render. */
export type ChatOptions = RenderOptions;

/** What LLM and AsyncLLM are made of. */
export interface EngineParts {
  readonly config: VllmConfig;
  readonly tokenizer: Tokenizer | null;
  readonly core: EngineCoreClient;
  readonly outputs: OutputProcessor;
  /** Set when the engine core has failed; every later call is rejected with it. */
  readonly health: { dead: KvasirError | null };
}

/** A prompt with everything that belongs to its request. */
interface Submission {
  readonly input: ProcessedInput;
  readonly requestId?: string;
}

const MAX_REQUEST_ID_LENGTH = 256;

/** What {@link LLM} and {@link AsyncLLM} share: requests, streams, chats, and the end of the engine. */
export abstract class EngineBase {
  /** The whole resolved configuration. */
  readonly config: VllmConfig;
  /** null for a model without tokenizer.json: such an engine takes and gives token ids only. */
  readonly tokenizer: Tokenizer | null;
  private readonly core: EngineCoreClient;
  private readonly outputs: OutputProcessor;
  private readonly health: EngineParts['health'];
  private readonly inputs: InputProcessor;
  private readonly chatTemplate: ChatTemplate;
  private closing: Promise<void> | null = null;
  private nextRequestId = 0;

  protected constructor(parts: EngineParts) {
    const { model, cache, seed } = (this.config = parts.config);
    this.tokenizer = parts.tokenizer;
    this.core = parts.core;
    this.outputs = parts.outputs;
    this.health = parts.health;
    this.chatTemplate = new ChatTemplate(parts.tokenizer?.chatTemplates ?? null, parts.tokenizer?.specialTokens);
    const { vocabSize, maxModelLen, eosTokenIds, maxLogprobs } = model;
    // Block 0 is the null block.
    const kvCapacity = (parts.core.info.numBlocks - 1) * cache.blockSize;
    this.inputs = new InputProcessor({ vocabSize, maxModelLen, kvCapacity, eosTokenIds, maxLogprobs, seed }, parts.tokenizer);
  }

  /** Sampling parameters of the model's generation_config.json; what requests without parameters get. */
  getDefaultSamplingParams(): SamplingParams {
    return defaultSamplingParams(this.config.model.generationDefaults);
  }

  /**
   * Generates for one prompt, yielding as tokens come (outputKind of `params`; default everything so far). The request starts at the first
   * next() and is aborted by return(), throw() and options.signal. Errors as {@link LLM.generate}.
   */
  stream(prompt: PromptInput, params?: SamplingParams | null, options: StreamOptions = {}): AsyncGenerator<RequestOutput, void, undefined> {
    return this.openStream(options, async () => this.inputs.process(prompt, this.orDefault(params), options.priority));
  }

  /** {@link stream} for a conversation, rendered with the model's chat template. */
  streamChat(
    messages: readonly ChatMessage[],
    params?: SamplingParams | null,
    options: StreamOptions & ChatOptions = {},
  ): AsyncGenerator<RequestOutput, void, undefined> {
    return this.openStream(options, () => this.processChat(messages, params, options));
  }

  /** Ends a request with finishReason 'abort'; its consumer gets what there is. False when no such request runs. */
  abort(requestId: string): boolean {
    const request = this.outputs.get(requestId);
    if (request === undefined) return false;
    this.core.abortRequests(this.outputs.abort(request));
    return true;
  }

  /** Forgets all cached prefixes; false, and nothing done, while requests run. */
  async resetPrefixCache(): Promise<boolean> {
    this.checkUsable();
    return this.core.resetPrefixCache();
  }

  /** Blocks of the KV cache, and bytes of weights, KV cache and activations on the device. */
  get info(): ExecutorInfo {
    return this.core.info;
  }

  /** Counters and gauges of the scheduler. */
  async stats(): Promise<SchedulerStats> {
    this.checkUsable();
    return this.core.stats();
  }

  /** Ends the engine and frees its memory. Requests that run fail with ERR_KVASIR_CLOSED, as do later calls. Idempotent. */
  close(): Promise<void> {
    this.closing ??= this.shutDown();
    return this.closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  protected checkUsable(): void {
    if (this.closing !== null) throw new KvasirError('ERR_KVASIR_CLOSED', 'The engine is closed');
    if (this.health.dead !== null) throw this.health.dead;
  }

  protected process(prompt: PromptInput, params: SamplingParams | null | undefined, priority?: number): ProcessedInput {
    return this.inputs.process(prompt, this.orDefault(params), priority);
  }

  protected async processChat(
    messages: readonly ChatMessage[],
    params: SamplingParams | null | undefined,
    options: RequestOptions & ChatOptions,
  ): Promise<ProcessedInput> {
    if (this.tokenizer === null) {
      throw new KvasirError('ERR_KVASIR_TOKENIZER', 'A chat needs a tokenizer, and this engine has none; give { promptTokenIds } to generate()');
    }
    const prompt = await this.chatTemplate.render(messages, options);
    // The template has written the special tokens.
    const promptTokenIds = this.inputs.encode(prompt, false);
    return this.inputs.process({ prompt, promptTokenIds }, this.orDefault(params), options.priority);
  }

  /** Queues checked requests; when `signal` fires all of them fail with its reason. */
  protected submit(submissions: readonly Submission[], signal?: AbortSignal): RequestState[] {
    this.checkUsable();
    signal?.throwIfAborted();
    const requests = submissions.map(({ input, requestId }) => this.outputs.add(requestId ?? this.freeRequestId(), input));
    if (signal !== undefined) this.abortOn(signal, requests);
    this.core.addRequests(requests.flatMap((request) => request.coreRequests()));
    return requests;
  }

  /** Drops requests whose consumer has gone. */
  protected cancel(requests: readonly RequestState[]): void {
    this.core.abortRequests(requests.flatMap((request) => this.outputs.cancel(request)));
  }

  private orDefault(params: SamplingParams | null | undefined): SamplingParams {
    return params ?? this.getDefaultSamplingParams();
  }

  private openStream(options: StreamOptions, prepare: () => Promise<ProcessedInput>): RequestStream {
    const { signal, requestId } = options;
    return new RequestStream({
      open: async () => {
        this.checkUsable();
        signal?.throwIfAborted();
        checkRequestId(requestId);
        const [request] = this.submit([{ input: await prepare(), requestId }], signal);
        return request!;
      },
      cancel: (request) => this.cancel([request]),
    });
  }

  private abortOn(signal: AbortSignal, requests: readonly RequestState[]): void {
    const onAbort = (): void => {
      this.core.abortRequests(requests.filter((r) => !r.ended).flatMap((r) => this.outputs.failRequest(r, signal.reason)));
    };
    let running = requests.length;
    signal.addEventListener('abort', onAbort, { once: true });
    for (const request of requests) {
      request.onEnd = () => {
        if (--running === 0) signal.removeEventListener('abort', onAbort);
      };
    }
  }

  private freeRequestId(): string {
    let id: string;
    do id = String(this.nextRequestId++);
    while (this.outputs.get(id) !== undefined);
    return id;
  }

  private async shutDown(): Promise<void> {
    this.outputs.failAll(new KvasirError('ERR_KVASIR_CLOSED', 'The engine was closed while the request was running'));
    await Promise.all([this.core.close(), this.chatTemplate.close()]);
  }
}

function checkRequestId(requestId: unknown): void {
  if (requestId === undefined) return;
  if (typeof requestId !== 'string' || requestId.length === 0 || requestId.length > MAX_REQUEST_ID_LENGTH) {
    throw new KvasirError('ERR_KVASIR_PARAMS', `requestId: expected a string of 1 to ${MAX_REQUEST_ID_LENGTH} characters, received ${typeof requestId}`);
  }
}
