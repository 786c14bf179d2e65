import type { KVCacheGroupSpec } from '../config/kv-cache-groups';
import type { ResolvedSamplingParams } from '../sampling/params';

/** A request as the engine core sees it: validated, tokenized, plain data (it may cross a worker_thread boundary). */
export interface EngineCoreRequest {
  readonly requestId: string;
  readonly promptTokenIds: readonly number[];
  readonly samplingParams: ResolvedSamplingParams;
  /** Milliseconds, for ordering under the priority policy; ties keep the order of arrival. */
  readonly arrivalTime: number;
  /** Lower runs first (policy 'priority'). */
  readonly priority: number;
  /** Requests share prefix-cache blocks only with requests of the same salt. */
  readonly cacheSalt?: string;
}

export type FinishReason = 'stop' | 'length' | 'abort' | 'error';

/** A request that the worker sees for the first time, or again after a preemption: everything it needs. */
export interface NewRequestData {
  readonly requestId: string;
  /** Prompt, and after a preemption also the tokens generated so far. */
  readonly tokenIds: readonly number[];
  /** How many of tokenIds are prompt. */
  readonly numPromptTokens: number;
  readonly samplingParams: ResolvedSamplingParams;
}

/** One request's share of a step. */
export interface ScheduledRequest {
  readonly requestId: string;
  /** Tokens whose KV is already there (prefix-cache hits included). */
  readonly numComputedTokens: number;
  /** Tokens to run in this step: positions [numComputedTokens, numComputedTokens + numScheduledTokens). */
  readonly numScheduledTokens: number;
  /**
   * Blocks to append to the request's block tables; for a new or resumed request the whole tables. For each 16 tokens (blockSize) it
   * has as many ids as there are KV cache groups, in their order; 0 (the null block) where a group has a window and will not look.
   * Blocks that a table holds already may be given to others when no query of this or a later step can see them.
   */
  readonly newBlockIds: readonly number[];
}

/** What one step runs. Small, plain data: rank 0 sends it to every rank. */
export interface SchedulerOutput {
  /** Requests that are new to the worker or resumed: their worker state is to be (re)built before `scheduled` is read. */
  readonly newRequests: readonly NewRequestData[];
  /** Every request of the step, in batch order. */
  readonly scheduled: readonly ScheduledRequest[];
  readonly totalNumScheduledTokens: number;
  /** Requests that finished, were aborted or preempted since the last step: the worker drops their state. */
  readonly removedRequestIds: readonly string[];
}

/** Log probabilities at one position: `tokenIds[0]` is the sampled (or prompt) token, then the top k, best first. */
export interface PositionLogprobs {
  readonly tokenIds: readonly number[];
  readonly logprobs: readonly number[];
  /** Rank (1 = best) of tokenIds[0] in the whole vocabulary. */
  readonly sampledRank: number;
}

/** What the worker returns for a step; arrays are parallel to SchedulerOutput.scheduled. */
export interface ModelRunnerOutput {
  /** The sampled token, or -1 where the step did not reach the last known token (a prefill chunk). */
  readonly sampledTokenIds: readonly number[];
  /** Present where the request asked for logprobs and a token was sampled. */
  readonly logprobs: readonly (PositionLogprobs | null)[];
  /**
   * Prompt logprobs computed in this step for requests that asked: for scheduled prompt positions p with p + 1 < numPromptTokens,
   * the logprobs of prompt token p + 1 given the tokens up to p. Absent where none.
   */
  readonly promptLogprobs: ReadonlyMap<string, readonly PositionLogprobs[]>;
  /** Requests that must end with finishReason 'error' (NaN logits): id -> message. */
  readonly errors: ReadonlyMap<string, string>;
}

/** What the engine core reports of a request after a step. */
export interface EngineCoreOutput {
  readonly requestId: string;
  readonly newTokenIds: readonly number[];
  readonly newLogprobs: readonly PositionLogprobs[] | null;
  readonly newPromptLogprobs: readonly PositionLogprobs[] | null;
  readonly finishReason: FinishReason | null;
  /** The stop token id that ended the request (never the eos ids of the model: those give null, as in vLLM). */
  readonly stopReason: number | null;
  /** Prompt tokens taken from the prefix cache when the request was first scheduled. */
  readonly numCachedTokens: number;
  /** With finishReason 'error'. */
  readonly error?: string;
}

/** What an executor has taken when it is ready. */
export interface ExecutorInfo {
  /** Blocks of the KV pool, the null block included. */
  readonly numBlocks: number;
  /** Layers that share blocks; default: all, and they see everything. */
  readonly kvCacheGroups?: readonly KVCacheGroupSpec[];
  /** Bytes on the device. */
  readonly memory?: { readonly weights: number; readonly kvCache: number; readonly activations: number };
  /** Bytes of the checkpoint's tensors that this rank read: its shards. */
  readonly checkpointBytesRead?: number;
}

/** Runs steps on one or more ranks. Implemented by worker/; the scheduler side only sees this. */
export interface Executor {
  /** Loads the model, plans the activations, allocates the KV cache; resolves with what the scheduler must know. */
  initialize(): Promise<ExecutorInfo>;
  executeModel(step: SchedulerOutput): Promise<ModelRunnerOutput>;
  /** Frees everything; idempotent. */
  shutdown(): Promise<void>;
}

/** Blocks of the KV pool that requests have for the layers of one group. */
export interface KVCacheGroupStats extends KVCacheGroupSpec {
  /** Now; a block that requests share counts once. */
  readonly numBlocksHeld: number;
  /** The most at any time since the start. */
  readonly peakBlocksHeld: number;
}

/** Counters and gauges of the scheduler, for logs and metrics. */
export interface SchedulerStats {
  readonly numRunning: number;
  readonly numWaiting: number;
  /** Share of the KV pool in use, 0..1. */
  readonly kvCacheUsage: number;
  /** Tokens looked up in the prefix cache since the start, counted once per request. */
  readonly prefixCacheQueries: number;
  /** Tokens of those that were found. */
  readonly prefixCacheHits: number;
  /** Preemptions since the start. */
  readonly numPreemptions: number;
  readonly kvCacheGroups: readonly KVCacheGroupStats[];
}
