import type { ResolvedSamplingParams } from '../sampling/params';
import type { BlockHash, BlockHasher } from './block-hash';
import type { BlockTable } from './kv-cache-manager';
import type { EngineCoreRequest } from './types';

/** 'preempted' requests wait like 'waiting' ones, but the worker and the client have seen them before. */
export type RequestStatus = 'waiting' | 'running' | 'preempted' | 'finished';

/** The scheduler's state of a request (vllm.v1.request.Request). */
export class Request {
  readonly requestId: string;
  readonly samplingParams: ResolvedSamplingParams;
  readonly arrivalTime: number;
  readonly priority: number;
  readonly cacheSalt: string | null;
  readonly promptTokenIds: readonly number[];
  /** Order of addRequest; the last tie-break of every policy. */
  readonly sequence: number;

  status: RequestStatus = 'waiting';
  /**
   * Tokens whose KV is written or scheduled to be written. Advances when a step is scheduled, not when its result comes
   * back, so that the next step can be planned while this one runs.
   */
  numComputedTokens = 0;
  /** Prompt tokens found in the prefix cache at the first admission; null before it. */
  numCachedTokens: number | null = null;
  numPreemptions = 0;
  /** Tokens that steps in flight are sampling: they come after {@link tokenIds} and are not known yet (asynchronous scheduling). */
  numPendingTokens = 0;
  /** Prompt logprobs handed out so far: after a preemption they are computed again, but not reported again. */
  numPromptLogprobsReported = 0;
  /** Blocks of the KV pool that the request holds; only the KVCacheManager looks in or changes it. */
  blockTable: BlockTable | null = null;
  /** Hashes of the full blocks of {@link tokenIds}, as far as they were needed. */
  readonly blockHashes: BlockHash[] = [];

  private readonly tokens: number[];

  constructor(source: EngineCoreRequest, sequence: number) {
    this.requestId = source.requestId;
    this.samplingParams = source.samplingParams;
    this.arrivalTime = source.arrivalTime;
    this.priority = source.priority;
    this.cacheSalt = source.cacheSalt ?? null;
    this.promptTokenIds = source.promptTokenIds;
    this.sequence = sequence;
    this.tokens = source.promptTokenIds.slice();
  }

  /** Prompt, then output. Grows in place. */
  get tokenIds(): readonly number[] {
    return this.tokens;
  }

  get numTokens(): number {
    return this.tokens.length;
  }

  get numPromptTokens(): number {
    return this.promptTokenIds.length;
  }

  get numOutputTokens(): number {
    return this.tokens.length - this.promptTokenIds.length;
  }

  get lastTokenId(): number {
    return this.tokens[this.tokens.length - 1]!;
  }

  get isFinished(): boolean {
    return this.status === 'finished';
  }

  /** Prompt logprobs need the logits of every prompt position, which a cache hit would skip. */
  get skipsPrefixCacheRead(): boolean {
    return this.samplingParams.promptLogprobs !== null;
  }

  appendOutputToken(tokenId: number): void {
    this.tokens.push(tokenId);
  }

  /** Brings {@link blockHashes} up to date; each block is hashed once in the life of the request. */
  updateBlockHashes(hasher: BlockHasher): void {
    hasher.extend(this.blockHashes, this.tokens, this.cacheSalt);
  }
}

/** Order under the policy 'priority': lower priority value, then earlier arrival, then order of addRequest. Negative: `a` goes first. */
export function comparePriority(a: Request, b: Request): number {
  return a.priority - b.priority || a.arrivalTime - b.arrivalTime || a.sequence - b.sequence;
}
