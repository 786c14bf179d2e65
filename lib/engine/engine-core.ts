import { Scheduler } from '../core/scheduler';
import type { EngineCoreOutput, EngineCoreRequest, Executor, ExecutorInfo, ModelRunnerOutput, SchedulerOutput, SchedulerStats } from '../core/types';
import type { VllmConfig } from '../config/vllm';
import { KvasirError, messageOf } from '../utils/errors';

/** Progress of the start: `stage` names what is loaded (weights), loaded and total count its unit. */
export interface LoadProgress {
  readonly stage: string;
  readonly loaded: number;
  readonly total: number;
}

/** What an executor may report while it starts. */
export interface ExecutorHooks {
  readonly onProgress: (progress: LoadProgress) => void;
}

export type ExecutorFactory = (config: VllmConfig, hooks: ExecutorHooks) => Executor;

/** Where the engine core reports to; called between steps, never inside one of the core's own methods but addRequest. */
export interface EngineCoreListener {
  onOutputs(outputs: readonly EngineCoreOutput[]): void;
  /** The scheduler refused a request; the others go on. */
  onRequestFailed(requestId: string, error: unknown): void;
  /** The executor failed: ERR_KVASIR_ENGINE_DEAD. Nothing is reported after it. */
  onDead(error: KvasirError): void;
}

const EMPTY_OUTPUT: ModelRunnerOutput = { sampledTokenIds: [], logprobs: [], promptLogprobs: new Map(), errors: new Map() };

/**
 * Scheduler and executor, and the loop that runs steps while there are requests (vllm.v1.engine.core.EngineCore). Between two steps it
 * gives the thread back, so that requests and aborts come in; without requests it does nothing.
 */
export class EngineCore {
  private running: Promise<void> | null = null;
  private dead: KvasirError | null = null;
  private closing: Promise<void> | null = null;
  private emptySteps = 0;
  private readonly inFlight: { readonly step: SchedulerOutput; readonly result: Promise<ModelRunnerOutput> }[] = [];

  constructor(
    private readonly scheduler: Scheduler,
    private readonly executor: Executor,
    private readonly listener: EngineCoreListener,
    /** Steps that the executor may hold at once: 2 with asynchronous scheduling. */
    private readonly maxInFlight = 1,
  ) {}

  /** Loads the model. Errors of the executor pass through; what it had taken is freed. */
  static async create(
    config: VllmConfig,
    factory: ExecutorFactory,
    hooks: ExecutorHooks,
    listener: EngineCoreListener,
  ): Promise<{ core: EngineCore; info: ExecutorInfo }> {
    const executor = factory(config, hooks);
    try {
      const info = await executor.initialize();
      const { cache, scheduler, model } = config;
      const { numBlocks, kvCacheGroups } = info;
      const planner = new Scheduler({ cache, scheduler, maxModelLen: model.maxModelLen, numBlocks, kvCacheGroups });
      return { core: new EngineCore(planner, executor, listener, scheduler.asyncScheduling ? 2 : 1), info };
    } catch (error) {
      await executor.shutdown();
      throw error;
    }
  }

  /** Queues a request; it is in the next step that has room. A request that cannot be queued is reported to the listener. */
  addRequest(request: EngineCoreRequest): void {
    // Whoever sent it has been told, or is about to be, that every request fails.
    if (this.dead !== null || this.closing !== null) return;
    try {
      this.scheduler.addRequest(request);
    } catch (error) {
      this.listener.onRequestFailed(request.requestId, error);
      return;
    }
    this.running ??= this.run();
  }

  /** Drops requests; nothing is reported of them, since whoever aborts has told the consumer. Unknown ids are passed over. */
  abortRequests(requestIds: readonly string[]): void {
    if (this.dead === null && this.closing === null) this.scheduler.abortRequests(requestIds);
  }

  resetPrefixCache(): boolean {
    return this.scheduler.resetPrefixCache();
  }

  stats(): SchedulerStats {
    return this.scheduler.stats();
  }

  /** Waits for the step in flight, then frees everything; idempotent. */
  shutdown(): Promise<void> {
    this.closing ??= this.stop();
    return this.closing;
  }

  private async stop(): Promise<void> {
    await this.running;
    try {
      await this.executor.shutdown();
    } catch (error) {
      // A device that failed refuses to the end, but what could be freed is, and every request has been told why.
      if (this.dead === null || !isDeviceFault(error)) throw error;
    }
  }

  private async run(): Promise<void> {
    try {
      // A first turn of the event loop lets requests that arrive together start together.
      await nextTurn();
      while (this.inFlight.length > 0 || (this.closing === null && this.hasWork())) {
        this.queueSteps();
        const outputs = await this.finishStep();
        if (outputs.length > 0 && this.closing === null) this.listener.onOutputs(outputs);
        await nextTurn();
      }
    } catch (error) {
      const remedy = isDeviceFault(error) ? 'and this process can use the device no more' : 'and must be created anew';
      this.dead = new KvasirError('ERR_KVASIR_ENGINE_DEAD', `The engine failed ${remedy}: ${messageOf(error)}`, { cause: error });
      this.listener.onDead(this.dead);
    } finally {
      this.running = null;
    }
  }

  private hasWork(): boolean {
    return this.scheduler.hasUnfinishedRequests() || this.scheduler.hasRemovedRequests();
  }

  /** Plans steps and hands them to the executor, which queues them: one, or with asynchronous scheduling one more than the running one. */
  private queueSteps(): void {
    while (this.closing === null && this.inFlight.length < this.maxInFlight && this.hasWork()) {
      const step = this.scheduler.schedule();
      const idle = step.totalNumScheduledTokens === 0;
      const ahead = this.inFlight.length > 0;
      this.emptySteps = idle && !ahead && this.scheduler.hasUnfinishedRequests() ? this.emptySteps + 1 : 0;
      // One empty step is possible (an abort just before it); more would spin for ever.
      if (this.emptySteps > 2) throw new Error('the scheduler found nothing to run although requests are waiting');
      // An empty step still tells the executor to drop what it holds of requests that are gone.
      const result = idle && step.removedRequestIds.length === 0 ? Promise.resolve(EMPTY_OUTPUT) : this.executor.executeModel(step);
      result.catch(() => undefined); // heard of when its turn comes
      this.inFlight.push({ step, result });
      if (idle) return;
    }
  }

  /** Waits for the oldest step and takes its results. */
  private async finishStep(): Promise<EngineCoreOutput[]> {
    const oldest = this.inFlight.shift();
    if (oldest === undefined) return [];
    return this.scheduler.updateFromOutput(oldest.step, await oldest.result);
  }
}

/** A CUDA context does not survive a fault, and it is the process's only one. */
function isDeviceFault(error: unknown): boolean {
  return error instanceof KvasirError && error.code === 'ERR_KVASIR_DEVICE';
}

/** The next turn of the event loop, after pending I/O and messages. */
function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
