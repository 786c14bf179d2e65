import type { VllmConfig } from '../config/vllm';
import type { EngineCoreRequest, ExecutorInfo, SchedulerStats } from '../core/types';
import { EngineCore, type EngineCoreListener, type ExecutorFactory, type ExecutorHooks } from './engine-core';

/** The engine core as its client sees it, in this thread or in another (vllm.v1.engine.core_client.EngineCoreClient). */
export interface EngineCoreClient {
  /** Blocks of the KV pool, the null block included. */
  readonly info: ExecutorInfo;
  addRequests(requests: readonly EngineCoreRequest[]): void;
  abortRequests(requestIds: readonly string[]): void;
  /** Empties the prefix cache; false while requests hold blocks. */
  resetPrefixCache(): Promise<boolean>;
  stats(): Promise<SchedulerStats>;
  /** Ends the core and frees its memory; idempotent. */
  close(): Promise<void>;
}

/** The engine core in the caller's thread. */
export class InprocCoreClient implements EngineCoreClient {
  private constructor(
    private readonly core: EngineCore,
    readonly info: ExecutorInfo,
  ) {}

  static async create(
    config: VllmConfig,
    factory: ExecutorFactory,
    hooks: ExecutorHooks,
    listener: EngineCoreListener,
  ): Promise<InprocCoreClient> {
    const { core, info } = await EngineCore.create(config, factory, hooks, listener);
    return new InprocCoreClient(core, info);
  }

  addRequests(requests: readonly EngineCoreRequest[]): void {
    for (const request of requests) this.core.addRequest(request);
  }

  abortRequests(requestIds: readonly string[]): void {
    this.core.abortRequests(requestIds);
  }

  async resetPrefixCache(): Promise<boolean> {
    return this.core.resetPrefixCache();
  }

  async stats(): Promise<SchedulerStats> {
    return this.core.stats();
  }

  close(): Promise<void> {
    return this.core.shutdown();
  }
}
