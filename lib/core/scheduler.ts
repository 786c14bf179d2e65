import type { KVCacheGroupSpec } from '../config/kv-cache-groups';
import type { CacheConfig, SchedulerConfig } from '../config/vllm';
import { KvasirError } from '../utils/errors';
import type { BlockHashFn } from './block-hash';
import type { KVCacheBlock } from './free-block-queue';
import { KVCacheManager, NO_PREFIX } from './kv-cache-manager';
import { checkParallel, requestOutput, updateRequest } from './output-update';
import { comparePriority, Request } from './request';
import { createRequestQueue } from './request-queue';
import type { RequestQueue } from './request-queue';
import { StepBuilder } from './step-builder';
import type { InFlightRequest } from './step-builder';
import type { EngineCoreOutput, EngineCoreRequest, ModelRunnerOutput, SchedulerOutput, SchedulerStats } from './types';

/** Most requests of most steps need no block: these stand for all of theirs. */
const NO_BLOCK_IDS: readonly number[] = Object.freeze([]);
const DELAY_CACHING = { delayCaching: true } as const;
const ONE_GROUP: readonly KVCacheGroupSpec[] = [{ slidingWindow: null, numLayers: 1 }];

export interface SchedulerOptions {
  readonly cache: CacheConfig;
  readonly scheduler: SchedulerConfig;
  readonly maxModelLen: number;
  /** Blocks that the worker allocated, the null block included. */
  readonly numBlocks: number;
  /** How the worker's layers share blocks; default: one group that sees everything. */
  readonly kvCacheGroups?: readonly KVCacheGroupSpec[];
  /** Test hook: the hash of the prefix cache. */
  readonly hashFn?: BlockHashFn;
}

/**
 * Decides what each step runs (vllm.v1.core.sched.scheduler.Scheduler).
 *
 * There is no prefill and no decode phase: a step gives tokens to requests until their computed tokens catch up with the
 * tokens they have. Running requests come first, then waiting ones, within maxNumBatchedTokens and maxNumSeqs. When the
 * KV pool runs out, a request is preempted: it loses its blocks, waits again and is recomputed.
 *
 * The work of a step depends on the requests that run, never on those that wait. The caller runs
 * `schedule() -> executor -> updateFromOutput()`; scheduling may be ahead of updating by some steps (in order): a request
 * whose next token is still unknown is passed over, or with asynchronous scheduling goes on without its being known; results
 * for a request that was aborted or preempted meanwhile are dropped.
 */
export class Scheduler {
  readonly kvCache: KVCacheManager;
  private readonly config: SchedulerConfig;
  private readonly kvCacheGroups: readonly KVCacheGroupSpec[];
  private readonly capacityTokens: number;
  /** Prompt and output together: the model's limit, or where one request fills the whole pool (its last token needs no KV). */
  private readonly maxTotalTokens: number;
  private readonly maxModelLen: number;
  private readonly asyncScheduling: boolean;
  private readonly requests = new Map<string, Request>();
  private readonly waiting: RequestQueue;
  private running: Request[] = [];
  /** Requests that the worker still knows and must drop. */
  private removedRequestIds: string[] = [];
  private readonly inFlight = new WeakMap<SchedulerOutput, readonly InFlightRequest[]>();
  private nextSequence = 0;
  private prefixCacheQueries = 0;
  private prefixCacheHits = 0;
  private numPreemptions = 0;

  /** @throws KvasirError ERR_KVASIR_CONFIG for limits under which some request could never run */
  constructor(options: SchedulerOptions) {
    this.config = options.scheduler;
    this.maxModelLen = options.maxModelLen;
    this.asyncScheduling = options.scheduler.asyncScheduling;
    this.kvCacheGroups = options.kvCacheGroups ?? ONE_GROUP;
    checkLimits(options);
    this.kvCache = new KVCacheManager({
      numBlocks: options.numBlocks,
      blockSize: options.cache.blockSize,
      enablePrefixCaching: options.cache.enablePrefixCaching,
      groups: this.kvCacheGroups,
      hashFn: options.hashFn,
    });
    this.capacityTokens = this.kvCache.capacityTokens(options.maxModelLen, this.config.maxNumBatchedTokens);
    checkCapacity(this.capacityTokens, options.numBlocks, this.kvCacheGroups);
    this.maxTotalTokens = Math.min(options.maxModelLen, this.capacityTokens + 1);
    this.waiting = createRequestQueue(this.config.policy);
  }

  get numWaiting(): number {
    return this.waiting.size;
  }

  get numRunning(): number {
    return this.running.length;
  }

  hasUnfinishedRequests(): boolean {
    return this.requests.size > 0;
  }

  /** Whether the worker holds state of requests that are gone, which the next step (it may be empty) tells it to drop. */
  hasRemovedRequests(): boolean {
    return this.removedRequestIds.length > 0;
  }

  /** Counters since the start and gauges of now. */
  stats(): SchedulerStats {
    return {
      numRunning: this.numRunning,
      numWaiting: this.numWaiting,
      kvCacheUsage: this.kvCache.usage,
      prefixCacheQueries: this.prefixCacheQueries,
      prefixCacheHits: this.prefixCacheHits,
      numPreemptions: this.numPreemptions,
      kvCacheGroups: this.kvCacheGroups.map((spec, group) => ({
        ...spec,
        numBlocksHeld: this.kvCache.pool.blocksHeld[group]!,
        peakBlocksHeld: this.kvCache.pool.peakBlocksHeld[group]!,
      })),
    };
  }

  /** Empties the prefix cache; false, and nothing done, while requests hold blocks. */
  resetPrefixCache(): boolean {
    return this.kvCache.resetPrefixCache();
  }

  /**
   * Queues a request.
   * @throws KvasirError ERR_KVASIR_PROMPT for an empty prompt; ERR_KVASIR_PROMPT_TOO_LONG when the prompt and one more
   *   token exceed maxModelLen or the whole KV pool; ERR_KVASIR_PARAMS when the id is in use
   */
  addRequest(source: EngineCoreRequest): void {
    if (this.requests.has(source.requestId)) {
      throw new KvasirError('ERR_KVASIR_PARAMS', `requestId: expected an id that is not in use, received ${JSON.stringify(source.requestId)}`);
    }
    const numTokens = source.promptTokenIds.length;
    if (numTokens === 0) throw new KvasirError('ERR_KVASIR_PROMPT', 'prompt: expected at least one token, received none');
    if (numTokens + 1 > this.maxModelLen) {
      throw new KvasirError(
        'ERR_KVASIR_PROMPT_TOO_LONG',
        `prompt: expected fewer tokens than maxModelLen, which is ${this.maxModelLen}, received ${numTokens}`,
      );
    }
    if (numTokens + 1 > this.capacityTokens) {
      throw new KvasirError(
        'ERR_KVASIR_PROMPT_TOO_LONG',
        `prompt: expected fewer tokens than the KV cache has room for, which is ${this.capacityTokens}, received ${numTokens}`,
      );
    }
    const request = new Request(source, this.nextSequence++);
    this.requests.set(request.requestId, request);
    this.waiting.add(request);
  }

  /** Ends requests, wherever they are; unknown ids (finished a moment ago) are passed over. Returns one output for each. */
  abortRequests(ids: Iterable<string>): EngineCoreOutput[] {
    const outputs: EngineCoreOutput[] = [];
    for (const id of ids) {
      const request = this.requests.get(id);
      if (request === undefined) continue;
      this.finish(request);
      outputs.push(requestOutput(request, { finishReason: 'abort' }));
    }
    this.dropFinishedFromRunning(outputs.length);
    return outputs;
  }

  /**
   * Plans the next step. With unfinished requests and no step in flight it always has something to run. An id that is
   * both in removedRequestIds and newRequests was taken again by another request: the worker removes first, then adds.
   */
  schedule(): SchedulerOutput {
    const builder = new StepBuilder(this.config.maxNumBatchedTokens);
    const numPreemptionsBefore = this.numPreemptions;
    this.scheduleRunning(builder);
    // After a preemption the pool is full: admitting would only lead to the next preemption.
    if (this.numPreemptions === numPreemptionsBefore) this.scheduleWaiting(builder);
    const step = builder.build(this.removedRequestIds);
    for (const { request } of builder.shares)
      if (request.numComputedTokens === request.numTokens + request.numPendingTokens) request.numPendingTokens++;
    this.removedRequestIds = [];
    this.inFlight.set(step, builder.shares);
    return step;
  }

  /**
   * Takes the results of a step that {@link schedule} planned; steps in the order they were planned.
   * @returns an output for each request with new tokens, new prompt logprobs, or an end
   */
  updateFromOutput(step: SchedulerOutput, out: ModelRunnerOutput): EngineCoreOutput[] {
    const inFlight = this.inFlight.get(step);
    if (inFlight === undefined) {
      throw new KvasirError('ERR_KVASIR_ENGINE_DEAD', 'expected the result of a step in flight, received that of an unknown or finished step');
    }
    this.inFlight.delete(step);
    checkParallel(step.scheduled, out);
    const outputs: EngineCoreOutput[] = [];
    let numFinished = 0;
    for (let index = 0; index < inFlight.length; index++) {
      const { request, numPreemptions } = inFlight[index]!;
      if (request.isFinished || request.numPreemptions !== numPreemptions) continue;
      const output = updateRequest(request, step.scheduled[index]!, index, out, this.maxTotalTokens);
      if (output === null) continue;
      outputs.push(output);
      if (output.finishReason === null) continue;
      if (output.finishReason === 'error') this.kvCache.withdrawCached(request);
      this.finish(request);
      numFinished++;
    }
    this.dropFinishedFromRunning(numFinished);
    return outputs;
  }

  /** Gives tokens to running requests, in the order of their admission; preempts where blocks run out. */
  private scheduleRunning(builder: StepBuilder): void {
    // Preemption shortens `running` before or after the current place; a copy keeps every survivor's turn.
    for (const request of this.running.slice()) {
      if (builder.budget === 0) break;
      if (request.status !== 'running') continue;
      const numTokens = Math.min(this.schedulableTokens(request) - request.numComputedTokens, builder.budget);
      // Computed up to its last token, the next one still being sampled by a step in flight.
      if (numTokens <= 0) continue;
      const blocks = this.allocateOrPreempt(request, numTokens, builder);
      if (blocks !== null) builder.add(request, numTokens, blockIdsOf(blocks), false);
    }
    // Only now is it certain that these requests stay in the step, and their blocks will be written.
    for (const { request, scheduled } of builder.shares) {
      // A block can be found by its tokens only when they are known.
      this.kvCache.cacheBlocks(request, Math.min(request.numComputedTokens + scheduled.numScheduledTokens, request.numTokens));
    }
  }

  /**
   * Tokens of a running request that a step may compute: the known ones and, with asynchronous scheduling, those that steps
   * in flight are sampling, unless one of them is certain to be the last.
   */
  private schedulableTokens(request: Request): number {
    const { numTokens, numPendingTokens, numOutputTokens, samplingParams } = request;
    if (!this.asyncScheduling || numPendingTokens === 0) return numTokens;
    const ends = numOutputTokens + numPendingTokens >= samplingParams.maxTokens || numTokens + numPendingTokens >= this.maxTotalTokens;
    return ends ? numTokens : numTokens + numPendingTokens;
  }

  /** Blocks for a running request, preempting others as needed; null when the request itself had to give way. */
  private allocateOrPreempt(request: Request, numTokens: number, builder: StepBuilder): readonly KVCacheBlock[] | null {
    for (;;) {
      const blocks = this.kvCache.allocateSlots(request, numTokens, NO_PREFIX, DELAY_CACHING);
      if (blocks !== null) return blocks;
      const victim = this.takeVictim();
      builder.remove(victim);
      this.preempt(victim);
      if (victim === request) return null;
    }
  }

  /** Removes the request to preempt from the running ones: the one admitted last, or with 'priority' the least important. */
  private takeVictim(): Request {
    if (this.config.policy === 'fcfs') return this.running.pop()!;
    let worst = 0;
    for (let i = 1; i < this.running.length; i++) {
      if (comparePriority(this.running[i]!, this.running[worst]!) > 0) worst = i;
    }
    return this.running.splice(worst, 1)[0]!;
  }

  private preempt(request: Request): void {
    this.kvCache.free(request);
    request.status = 'preempted';
    request.numComputedTokens = 0;
    request.numPendingTokens = 0; // what steps in flight sample is dropped, and sampled again
    request.numPreemptions++;
    this.numPreemptions++;
    this.removedRequestIds.push(request.requestId);
    this.waiting.prepend(request);
  }

  /** Admits waiting requests in order until the budget, maxNumSeqs or the KV pool is used up. Nobody overtakes. */
  private scheduleWaiting(builder: StepBuilder): void {
    while (builder.budget > 0 && this.running.length < this.config.maxNumSeqs) {
      const request = this.waiting.peek();
      if (request === undefined) return;
      const computed = this.kvCache.getComputedBlocks(request);
      const numComputed = computed.numBlocks * this.kvCache.blockSize;
      const numMissing = request.numTokens - numComputed;
      if (!this.config.enableChunkedPrefill && numMissing > builder.budget) return;
      const numTokens = Math.min(numMissing, builder.budget);
      const newBlocks = this.kvCache.allocateSlots(request, numTokens, computed);
      if (newBlocks === null) return;
      this.waiting.pop();
      this.running.push(request);
      request.status = 'running';
      request.numComputedTokens = numComputed;
      this.countPrefixCache(request, numComputed);
      builder.add(request, numTokens, blockIdsOf([...computed.blocks, ...newBlocks]), true);
    }
  }

  /** Counted at the first admission: a request that comes back after a preemption would only find its own blocks. */
  private countPrefixCache(request: Request, numHits: number): void {
    if (request.numCachedTokens !== null) return;
    request.numCachedTokens = numHits;
    if (!this.kvCache.readsPrefixCache(request)) return;
    this.prefixCacheQueries += request.numTokens;
    this.prefixCacheHits += numHits;
  }

  /** Ends a request and frees its blocks. Its place in `running` is cleared by {@link dropFinishedFromRunning}. */
  private finish(request: Request): void {
    if (request.status === 'running') this.removedRequestIds.push(request.requestId);
    else this.waiting.remove(request);
    request.status = 'finished';
    this.kvCache.free(request);
    this.requests.delete(request.requestId);
  }

  private dropFinishedFromRunning(numFinished: number): void {
    if (numFinished > 0) this.running = this.running.filter((request) => !request.isFinished);
  }
}

function blockIdsOf(blocks: readonly KVCacheBlock[]): readonly number[] {
  return blocks.length === 0 ? NO_BLOCK_IDS : blocks.map((block) => block.blockId);
}

function checkCapacity(capacityTokens: number, numBlocks: number, groups: readonly KVCacheGroupSpec[]): void {
  if (capacityTokens > 0) return;
  throw new KvasirError(
    'ERR_KVASIR_CONFIG',
    `numKvBlocks: expected at least ${groups.length + 1}, one for each of ${groups.length} groups of layers and the null block, received ${numBlocks}`,
  );
}

function checkLimits({ scheduler, maxModelLen }: SchedulerOptions): void {
  const limits = { maxNumBatchedTokens: scheduler.maxNumBatchedTokens, maxNumSeqs: scheduler.maxNumSeqs, maxModelLen };
  for (const [name, value] of Object.entries(limits)) {
    if (!Number.isInteger(value) || value < 1) {
      throw new KvasirError('ERR_KVASIR_CONFIG', `${name}: expected a positive integer, received ${value}`);
    }
  }
  if (!scheduler.enableChunkedPrefill && scheduler.maxNumBatchedTokens < maxModelLen) {
    throw new KvasirError(
      'ERR_KVASIR_CONFIG',
      `maxNumBatchedTokens: expected at least maxModelLen (${maxModelLen}) when enableChunkedPrefill is false, received ${scheduler.maxNumBatchedTokens}`,
    );
  }
}
