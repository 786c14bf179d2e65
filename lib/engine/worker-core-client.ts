import * as path from 'node:path';
import { Worker } from 'node:worker_threads';
import type { EngineCoreRequest, ExecutorInfo, SchedulerStats } from '../core/types';
import { KvasirError, messageOf } from '../utils/errors';
import type { EngineCoreClient } from './core-client';
import type { EngineCoreListener, ExecutorHooks } from './engine-core';
import { fromWireError, type CallName, type CallResults, type FromWorker, type ToWorker, type WorkerInit } from './messages';

/** Time that a worker gets to finish its step and free its memory before it is terminated. */
const CLOSE_TIMEOUT_MS = 1500;

interface PendingCall {
  readonly resolve: (value: CallResults[CallName]) => void;
  readonly reject: (error: unknown) => void;
}

/** What start() waits for. */
interface Startup {
  readonly resolve: (info: ExecutorInfo) => void;
  readonly reject: (error: unknown) => void;
}

/**
 * The engine core in a worker_thread, so that steps never block the caller's event loop and the other way round. The thread keeps the
 * process alive only while it starts and while requests or calls are pending.
 */
export class WorkerCoreClient implements EngineCoreClient {
  info: ExecutorInfo = { numBlocks: 0 };
  private readonly worker: Worker;
  private readonly exited: Promise<void>;
  private readonly calls = new Map<number, PendingCall>();
  /** Ids of requests that the core has not finished. */
  private readonly pending = new Set<string>();
  private startup: Startup | null = null;
  private failure: unknown = null;
  private closing: Promise<void> | null = null;
  private closeError: unknown = null;
  private nextCallId = 0;

  private constructor(
    init: WorkerInit,
    private readonly hooks: ExecutorHooks,
    private readonly listener: EngineCoreListener,
  ) {
    this.worker = new Worker(workerPath(), { workerData: init });
    this.worker.on('message', (message: FromWorker) => this.receive(message));
    this.worker.on('error', (error) => this.die(new KvasirError('ERR_KVASIR_ENGINE_DEAD', `The engine's thread failed: ${messageOf(error)}`, { cause: error })));
    this.exited = new Promise((resolve) => {
      this.worker.once('exit', (code) => {
        if (this.closing === null) this.die(new KvasirError('ERR_KVASIR_ENGINE_DEAD', `The engine's thread ended with exit code ${code}`));
        resolve();
      });
    });
  }

  /** Starts the thread and loads the model there. Errors of the start keep their code. */
  static async create(init: WorkerInit, hooks: ExecutorHooks, listener: EngineCoreListener): Promise<WorkerCoreClient> {
    const client = new WorkerCoreClient(init, hooks, listener);
    try {
      client.info = await new Promise<ExecutorInfo>((resolve, reject) => {
        client.startup = { resolve, reject };
      });
    } catch (error) {
      await client.close();
      throw error;
    }
    client.startup = null;
    client.updateRef();
    return client;
  }

  addRequests(requests: readonly EngineCoreRequest[]): void {
    if (!this.usable) return;
    for (const { requestId } of requests) this.pending.add(requestId);
    this.updateRef();
    this.post({ type: 'add', requests });
  }

  abortRequests(requestIds: readonly string[]): void {
    if (!this.usable || requestIds.length === 0) return;
    this.settled(requestIds);
    this.post({ type: 'abort', requestIds });
  }

  resetPrefixCache(): Promise<boolean> {
    return this.call('resetPrefixCache');
  }

  stats(): Promise<SchedulerStats> {
    return this.call('stats');
  }

  close(): Promise<void> {
    this.closing ??= this.stop();
    return this.closing;
  }

  private get usable(): boolean {
    return this.failure === null && this.closing === null;
  }

  private async stop(): Promise<void> {
    this.failCalls(new KvasirError('ERR_KVASIR_CLOSED', 'The engine is closed'));
    this.worker.ref();
    this.post({ type: 'close' });
    let timer: NodeJS.Timeout | undefined;
    const timeout = new Promise<'timeout'>((resolve) => {
      timer = setTimeout(() => resolve('timeout'), CLOSE_TIMEOUT_MS);
    });
    const outcome = await Promise.race([this.exited, timeout]);
    clearTimeout(timer);
    if (outcome === 'timeout') await this.worker.terminate();
    if (this.closeError !== null) throw this.closeError;
  }

  private post(message: ToWorker): void {
    this.worker.postMessage(message);
  }

  private call<K extends CallName>(name: K): Promise<CallResults[K]> {
    if (this.failure !== null) return Promise.reject(this.failure);
    if (this.closing !== null) return Promise.reject(new KvasirError('ERR_KVASIR_CLOSED', 'The engine is closed'));
    const id = this.nextCallId++;
    return new Promise((resolve, reject) => {
      this.calls.set(id, { resolve: resolve as PendingCall['resolve'], reject });
      this.updateRef();
      this.post({ type: 'call', id, name });
    });
  }

  private receive(message: FromWorker): void {
    switch (message.type) {
      case 'progress':
        return this.hooks.onProgress(message.progress);
      case 'ready':
        return this.startup?.resolve(message.info);
      case 'startFailed':
        return this.startup?.reject(fromWireError(message.error));
      case 'outputs':
        this.settled(message.outputs.filter((output) => output.finishReason !== null).map((output) => output.requestId));
        return this.listener.onOutputs(message.outputs);
      case 'requestFailed':
        this.settled([message.requestId]);
        return this.listener.onRequestFailed(message.requestId, fromWireError(message.error));
      case 'dead':
        return this.die(fromWireError(message.error) as KvasirError);
      case 'result':
        this.calls.get(message.id)?.resolve(message.value);
        this.calls.delete(message.id);
        return this.updateRef();
      case 'closed':
        this.closeError = message.error === null ? null : fromWireError(message.error);
        return;
    }
  }

  /** The first failure counts; what follows from it (the exit after an error) is not news. */
  private die(error: KvasirError): void {
    if (this.failure !== null) return;
    this.failure = error;
    this.pending.clear();
    this.failCalls(error);
    if (this.startup !== null) this.startup.reject(error);
    else this.listener.onDead(error);
    this.updateRef();
  }

  private failCalls(error: unknown): void {
    for (const call of this.calls.values()) call.reject(error);
    this.calls.clear();
  }

  private settled(requestIds: readonly string[]): void {
    for (const requestId of requestIds) this.pending.delete(requestId);
    this.updateRef();
  }

  private updateRef(): void {
    if (this.startup !== null || this.closing !== null) return;
    if (this.pending.size + this.calls.size > 0) this.worker.ref();
    else this.worker.unref();
  }
}

/** Worker threads cannot load TypeScript: from sources (tests) the compiled worker is used. */
function workerPath(): string {
  return __filename.endsWith('.ts') ? path.join(__dirname, '../../dist/engine/core-worker.js') : path.join(__dirname, 'core-worker.js');
}
