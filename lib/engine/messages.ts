/** What crosses the boundary between a client and an engine core in a worker_thread: plain data, this and nothing else. */
import type { VllmConfig } from '../config/vllm';
import type { EngineCoreOutput, EngineCoreRequest, ExecutorInfo, SchedulerStats } from '../core/types';
import { ERRORS, KvasirError, messageOf, type ErrorCode } from '../utils/errors';
import type { LoadProgress } from './engine-core';

export interface WorkerInit {
  readonly config: VllmConfig;
  /** Modules that the worker loads first, by absolute path: where a program registers its own models. */
  readonly imports: readonly string[];
  /** A module exporting createExecutor in place of the engine's own; for tests. */
  readonly executorModule: string | null;
}

export interface CallResults {
  resetPrefixCache: boolean;
  stats: SchedulerStats;
}

export type CallName = keyof CallResults;

export type ToWorker =
  | { readonly type: 'add'; readonly requests: readonly EngineCoreRequest[] }
  | { readonly type: 'abort'; readonly requestIds: readonly string[] }
  | { readonly type: 'call'; readonly id: number; readonly name: CallName }
  | { readonly type: 'close' };

export type FromWorker =
  | { readonly type: 'progress'; readonly progress: LoadProgress }
  | { readonly type: 'ready'; readonly info: ExecutorInfo }
  | { readonly type: 'startFailed'; readonly error: WireError }
  | { readonly type: 'outputs'; readonly outputs: readonly EngineCoreOutput[] }
  | { readonly type: 'requestFailed'; readonly requestId: string; readonly error: WireError }
  | { readonly type: 'dead'; readonly error: WireError }
  | { readonly type: 'result'; readonly id: number; readonly value: CallResults[CallName] }
  | { readonly type: 'closed'; readonly error: WireError | null };

/** An error as plain data. `code` is null for anything that is not a KvasirError. */
export interface WireError {
  readonly code: ErrorCode | null;
  readonly message: string;
  readonly stack: string | null;
}

export function toWireError(error: unknown): WireError {
  return {
    code: error instanceof KvasirError ? error.code : null,
    message: messageOf(error),
    stack: error instanceof Error ? (error.stack ?? null) : null,
  };
}

/** The error on the other side, with code and message kept; the worker's stack is its cause. */
export function fromWireError(wire: WireError): Error {
  const cause = wire.stack === null ? undefined : new Error(`in the engine's thread: ${wire.stack}`);
  if (wire.code === null || !Object.hasOwn(ERRORS, wire.code)) return new Error(wire.message, { cause });
  return new KvasirError(wire.code, wire.message, { cause });
}
