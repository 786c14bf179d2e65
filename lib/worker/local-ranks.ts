import { fork, type ChildProcess } from 'node:child_process';
import * as path from 'node:path';
import { cloneForWorker } from '../config/resolve';
import type { RankLaunch, VllmConfig } from '../config/vllm';
import { KvasirError } from '../utils/errors';
import type { RankInit } from './rank-messages';

/** How long ranks may take to end by themselves before they are killed. */
const END_TIMEOUT_MS = 2000;

/** The ranks that rank 0 started on its own host: child processes that never outlive it. */
export class LocalRanks {
  private readonly children: readonly ChildProcess[];
  private readonly ended: Promise<unknown>;
  private ending = false;
  private listener: ((error: KvasirError) => void) | null = null;
  private firstEnd: KvasirError | null = null;

  private constructor(vllmConfig: VllmConfig, launch: RankLaunch, port: number, secret: string) {
    const ranks = Array.from({ length: vllmConfig.parallel.tensorParallelSize - 1 }, (_, i) => i + 1);
    this.children = ranks.map((rank) => startRank({ config: configOf(vllmConfig, launch, rank, port), secret }));
    this.ended = Promise.all(this.children.map((child, i) => this.watch(child, i + 1)));
  }

  static start(vllmConfig: VllmConfig, launch: RankLaunch, port: number, secret: string): LocalRanks {
    return new LocalRanks(vllmConfig, launch, port, secret);
  }

  /** Called once when a rank ends although nobody asked it to, at once if it has. */
  onUnexpectedEnd(listener: (error: KvasirError) => void): void {
    this.listener = listener;
    if (this.firstEnd) listener(this.firstEnd);
  }

  /** Waits until all ranks have ended; those that do not are killed, stopped ones too. */
  async end(): Promise<void> {
    this.ending = true;
    const timer = setTimeout(() => this.kill(), END_TIMEOUT_MS);
    await this.ended;
    clearTimeout(timer);
  }

  kill(): void {
    this.ending = true;
    for (const child of this.children) child.kill('SIGKILL');
  }

  private watch(child: ChildProcess, rank: number): Promise<void> {
    return new Promise((resolve) => {
      child.once('error', (error) => {
        this.report(`rank ${rank} could not be started: ${error.message}`);
        if (child.pid === undefined) resolve();
      });
      child.once('exit', (code, signal) => {
        this.report(`rank ${rank} ended with ${signal ?? `exit code ${code}`}`);
        resolve();
      });
    });
  }

  private report(message: string): void {
    if (this.ending || this.firstEnd) return;
    this.firstEnd = new KvasirError('ERR_KVASIR_RANK', message);
    this.listener?.(this.firstEnd);
  }
}

function configOf(vllmConfig: VllmConfig, launch: RankLaunch, rank: number, port: number): VllmConfig {
  const rendezvous = { host: '127.0.0.1', port };
  return { ...cloneForWorker(vllmConfig), parallel: { ...vllmConfig.parallel, tpRank: rank, launch: { ...launch, localRank: rank, rendezvous } } };
}

function startRank(init: RankInit): ChildProcess {
  // Standard output belongs to the program that started the engine; what a rank prints goes to standard error.
  const child = fork(entryPath(), [], { serialization: 'advanced', stdio: ['ignore', 2, 2, 'ipc'], execArgv: [] });
  const { config } = init;
  // The map of attention layers belongs to a model that is built; it is empty, and the channel need not carry it.
  child.send({ ...init, config: { ...config, staticForwardContext: null } }, (error) => {
    // A rank that is gone before it could read is reported by its exit.
    if (error === null && child.connected) child.channel?.unref();
  });
  child.unref();
  return child;
}

/** Processes cannot load TypeScript: from sources (tests) the compiled entry is used. */
function entryPath(): string {
  return __filename.endsWith('.ts') ? path.join(__dirname, '../../dist/worker/rank-main.js') : path.join(__dirname, 'rank-main.js');
}
