import * as path from 'node:path';
import { Worker } from 'node:worker_threads';
import type { FromHeartbeat, HeartbeatInit, ToHeartbeat } from './heartbeat-messages';

/** Time that the thread gets to say goodbye before it is terminated. */
const CLOSE_TIMEOUT_MS = 1000;

export interface HeartbeatListener {
  /** Beats of this rank arrive. */
  onJoined(rank: number): void;
  /** A rank is gone, and did not say goodbye. Not after {@link Heartbeat.close}. */
  onLost(rank: number, reason: string): void;
  /** The heartbeats themselves do not work. */
  onBroken(reason: string): void;
}

/** The heartbeats of this rank, in a thread (heartbeat-worker.ts) that does not keep the process alive once it works. */
export class Heartbeat {
  /** Where rank 0 listens; rejects when the thread breaks before. */
  readonly port: Promise<number>;
  private readonly worker: Worker;
  private readonly exited: Promise<void>;
  private closing: Promise<void> | null = null;
  private guarding = false;
  private settlePort!: { readonly resolve: (port: number) => void; readonly reject: (error: Error) => void };

  constructor(
    init: HeartbeatInit,
    private readonly listener: HeartbeatListener,
  ) {
    this.port = new Promise((resolve, reject) => (this.settlePort = { resolve, reject }));
    this.port.catch(() => undefined); // the listener hears of it too
    this.worker = new Worker(workerPath(), { workerData: init, execArgv: [], resourceLimits: { maxOldGenerationSizeMb: 32 } });
    this.worker.on('message', (message: FromHeartbeat) => this.receive(message));
    // Rank 0 has nothing else yet that keeps the process alive while it waits for the port.
    if (init.rank !== 0) this.worker.unref();
    this.worker.on('error', (error) => this.broken(error instanceof Error ? error.message : String(error)));
    this.exited = new Promise((resolve) => {
      this.worker.once('exit', () => {
        this.broken('it ended');
        resolve();
      });
    });
  }

  /** Says goodbye to the other ranks and ends the thread. Idempotent. */
  close(): Promise<void> {
    this.closing ??= this.stop();
    return this.closing;
  }

  /** Ends the heartbeats, and the process too unless {@link close} comes within this time. */
  guard(ms: number): void {
    if (this.closing !== null) return;
    this.guarding = true;
    this.post({ type: 'guard', ms });
  }

  private async stop(): Promise<void> {
    this.worker.ref();
    this.post({ type: 'close' });
    const timer = setTimeout(() => void this.worker.terminate(), CLOSE_TIMEOUT_MS);
    await this.exited;
    clearTimeout(timer);
  }

  private post(message: ToHeartbeat): void {
    this.worker.postMessage(message);
  }

  private receive(message: FromHeartbeat): void {
    if (this.closing !== null || this.guarding) return;
    switch (message.type) {
      case 'listening':
        this.worker.unref();
        return this.settlePort.resolve(message.port);
      case 'joined':
        return this.listener.onJoined(message.rank);
      case 'broken':
        return this.broken(message.reason);
      case 'lost':
        this.post({ type: 'acknowledge' });
        // A rank that leaves in order says so on the control connection too, and that counts.
        if (!message.orderly) this.listener.onLost(message.rank, message.reason);
        return;
    }
  }

  private broken(reason: string): void {
    const message = `the thread of the heartbeats failed: ${reason}`;
    this.settlePort.reject(new Error(message));
    if (this.closing === null && !this.guarding) this.listener.onBroken(message);
  }
}

/** Worker threads cannot load TypeScript: from sources (tests) the compiled worker is used. */
function workerPath(): string {
  return __filename.endsWith('.ts') ? path.join(__dirname, '../../dist/distributed/heartbeat-worker.js') : path.join(__dirname, 'heartbeat-worker.js');
}
