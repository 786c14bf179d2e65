import { Worker } from 'node:worker_threads';
import { KvasirError, messageOf } from '../utils/errors';
import type { ChatTemplateLimits } from './limits';
import { RENDER_THREAD_SOURCE, type RenderAnswer, type RenderJob, type RenderThreadData } from './render-thread';

/** Milliseconds the thread may take to start; far more than it needs, because a busy machine is no fault of a template. */
const START_TIMEOUT_MS = 30_000;

interface Pending {
  readonly job: RenderJob;
  readonly resolve: (text: string) => void;
  readonly reject: (error: KvasirError) => void;
}

function templateError(message: string, cause?: unknown): KvasirError {
  return new KvasirError('ERR_KVASIR_CHAT_TEMPLATE', message, { cause });
}

function failure(answer: Extract<RenderAnswer, { ok: false }>): KvasirError {
  if (answer.kind === 'raised') return templateError(`the chat template refused the conversation: ${answer.message}`);
  if (answer.kind === 'syntax') return templateError(`the chat template is not valid: ${answer.message}`);
  if (answer.kind === 'limit') return templateError(`the chat template exceeds its limits: ${answer.message}`);
  return templateError(`the chat template failed: ${answer.message}`);
}

/**
 * Runs templates behind a fence: the interpreter has no limits of its own, and one expression can otherwise block the event
 * loop for minutes or end the process. A thread with a bounded heap renders one job at a time; past its time it is
 * terminated and the next job gets a new one. The thread keeps the process alive only while a job runs.
 */
export class TemplateRenderer {
  private worker: Worker | null = null;
  private isReady = false;
  private current: Pending | null = null;
  private timer: NodeJS.Timeout | null = null;
  private readonly queue: Pending[] = [];
  private isClosed = false;

  constructor(private readonly limits: ChatTemplateLimits) {}

  /** @throws KvasirError ERR_KVASIR_CHAT_TEMPLATE when the template fails or exceeds its limits, ERR_KVASIR_CLOSED after close(). */
  render(job: RenderJob): Promise<string> {
    if (this.isClosed) return Promise.reject(new KvasirError('ERR_KVASIR_CLOSED', 'the chat template is closed'));
    return new Promise((resolve, reject) => {
      this.queue.push({ job, resolve, reject });
      this.next();
    });
  }

  /** Ends the thread; jobs that have not finished fail with ERR_KVASIR_CLOSED. Idempotent. */
  async close(): Promise<void> {
    this.isClosed = true;
    const waiting = this.queue.splice(0);
    const worker = this.worker;
    this.fail(new KvasirError('ERR_KVASIR_CLOSED', 'the chat template was closed while it rendered'));
    for (const pending of waiting) pending.reject(new KvasirError('ERR_KVASIR_CLOSED', 'the chat template was closed before it rendered'));
    await worker?.terminate();
  }

  private next(): void {
    if (this.current !== null || this.queue.length === 0) return;
    this.current = this.queue.shift() ?? null;
    try {
      this.worker ??= this.start();
    } catch (error) {
      this.fail(templateError(`cannot start the thread for chat templates: ${messageOf(error)}`, error));
      return this.next();
    }
    this.worker.ref();
    if (this.isReady) this.post();
    else this.startTimer(START_TIMEOUT_MS, 'the thread for chat templates did not start');
  }

  private start(): Worker {
    const data: RenderThreadData = {
      jinja: require.resolve('@huggingface/jinja'),
      maxOutputLength: this.limits.maxOutputLength,
      maxRange: this.limits.maxRange,
    };
    const worker = new Worker(RENDER_THREAD_SOURCE, {
      eval: true,
      execArgv: [],
      workerData: data,
      resourceLimits: { maxOldGenerationSizeMb: this.limits.maxHeapMb, maxYoungGenerationSizeMb: 32, stackSizeMb: 4 },
    });
    worker.on('message', (message: 'ready' | RenderAnswer) => {
      if (worker !== this.worker) return;
      if (message === 'ready') this.onReady();
      else this.onAnswer(message);
    });
    worker.on('error', (error) => this.onDeath(worker, error));
    worker.on('exit', (code) => this.onDeath(worker, new Error(`its thread ended with code ${code}`)));
    return worker;
  }

  private onReady(): void {
    this.isReady = true;
    if (this.current !== null) this.post();
  }

  private post(): void {
    if (this.current === null) return;
    this.startTimer(this.limits.timeoutMs, `the chat template exceeds its limits: expected to render within ${this.limits.timeoutMs} ms`);
    this.worker?.postMessage(this.current.job);
  }

  private onAnswer(answer: RenderAnswer): void {
    const done = this.finishCurrent();
    this.worker?.unref();
    if (answer.ok) done?.resolve(answer.text);
    else done?.reject(failure(answer));
    this.next();
  }

  private onDeath(worker: Worker, error: unknown): void {
    if (worker !== this.worker) return;
    const outOfMemory = (error as { code?: unknown }).code === 'ERR_WORKER_OUT_OF_MEMORY';
    const what = outOfMemory ? `expected to need at most ${this.limits.maxHeapMb} MiB` : messageOf(error);
    this.fail(templateError(`the chat template exceeds its limits: ${what}`, error));
    this.next();
  }

  private startTimer(ms: number, message: string): void {
    if (this.timer !== null) clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      const worker = this.worker;
      this.fail(templateError(message));
      // Its end needs no waiting for: the worker is no longer ours and holds nothing that others need.
      void worker?.terminate();
      this.next();
    }, ms);
  }

  private finishCurrent(): Pending | null {
    if (this.timer !== null) clearTimeout(this.timer);
    this.timer = null;
    const done = this.current;
    this.current = null;
    return done;
  }

  /** Gives up the thread and the job it runs. */
  private fail(error: KvasirError): void {
    this.worker = null;
    this.isReady = false;
    this.finishCurrent()?.reject(error);
  }
}
