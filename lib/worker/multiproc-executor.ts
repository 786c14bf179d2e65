import { randomBytes } from 'node:crypto';
import type { RankLaunch, VllmConfig } from '../config/vllm';
import type { Executor, ExecutorInfo, ModelRunnerOutput, SchedulerOutput } from '../core/types';
import type { Leader } from '../distributed/control-plane';
import { bindLeader } from '../distributed/leader';
import { LocalRanks } from './local-ranks';
import { fingerprintOf, groupOf, readSecret } from './rank-identity';
import { RankWorker } from './rank-worker';

const LOOPBACK = '127.0.0.1';

/**
 * Rank 0 of a tensor-parallel group, one process per rank (vllm MultiprocExecutor): starts the other ranks on this host, or meets those
 * that a launcher started; sends them every step and runs it as they do. The first rank that fails ends all of it: whatever runs and
 * whatever is asked later rejects with one ERR_KVASIR_RANK.
 */
export class MultiprocExecutor implements Executor {
  private plane: Leader | null = null;
  private ranks: LocalRanks | null = null;
  private worker: RankWorker | null = null;
  private readonly failure: Promise<never>;
  private rejectFailure: (error: unknown) => void = () => undefined;
  private failed = false;
  /** Work that is under way, which must have ended before its memory goes. */
  private lastStep: Promise<unknown> = Promise.resolve();

  constructor(
    private readonly vllmConfig: VllmConfig,
    private readonly launch: RankLaunch,
    private readonly onWeights: (loaded: number, total: number) => void,
  ) {
    this.failure = new Promise((_, reject) => {
      this.rejectFailure = reject;
    });
    this.failure.catch(() => undefined); // heard of by whoever waits for a step or the start
  }

  /** @throws KvasirError ERR_KVASIR_LAUNCH, ERR_KVASIR_RANK, and what loading a model throws */
  async initialize(): Promise<ExecutorInfo> {
    const plane = await this.gather();
    plane.onFailure((error) => this.fail(error));
    const group = groupOf(this.vllmConfig, plane, this.launch.startTimeoutMs);
    const worker = (this.worker = RankWorker.create(this.vllmConfig, group));
    return this.unlessFailed(worker.initialize(this.onWeights));
  }

  executeModel(step: SchedulerOutput): Promise<ModelRunnerOutput> {
    this.plane!.sendStep(step);
    return this.unlessFailed(this.worker!.execute(step));
  }

  async shutdown(): Promise<void> {
    const { plane, ranks, worker } = this;
    this.plane = this.ranks = this.worker = null;
    // After a failure others may never answer what this rank still waits for; else the last step is through.
    if (this.failed) worker?.abort();
    await this.lastStep;
    try {
      await plane?.close();
      await worker?.dispose();
    } finally {
      await ranks?.end();
    }
  }

  /** The ranks, all of them there. */
  private async gather(): Promise<Leader> {
    const { vllmConfig, launch } = this;
    const { tensorParallelSize: size } = vllmConfig.parallel;
    const { host, port } = this.address();
    const secret = launch.rendezvous === null ? randomBytes(32).toString('hex') : await readSecret(launch);
    const server = await bindLeader({ rank: 0, size, host, port, secret, fingerprint: fingerprintOf(vllmConfig), timeoutMs: launch.startTimeoutMs });
    if (launch.rendezvous === null) {
      this.ranks = LocalRanks.start(vllmConfig, launch, server.port, secret);
      this.ranks.onUnexpectedEnd((error) => this.fail(error));
    }
    try {
      return (this.plane = await this.unlessFailed(server.accept()));
    } catch (error) {
      await server.close();
      throw error;
    }
  }

  private address(): { readonly host: string; readonly port: number } {
    return this.launch.rendezvous ?? { host: LOOPBACK, port: 0 };
  }

  /** The result of some work of this rank, or the failure of any. A failure of this rank is one of the group. */
  private async unlessFailed<T>(work: Promise<T>): Promise<T> {
    this.lastStep = work.catch((error: unknown) => this.fail(error));
    return Promise.race([work, this.failure]);
  }

  /** Ends the group; the first reason counts. */
  private fail(error: unknown): void {
    if (this.failed) return;
    this.failed = true;
    // Before the work that waits in vain is ended: that it failed is no news.
    this.rejectFailure(error);
    this.worker?.abort();
    this.plane?.fail(error);
    this.ranks?.kill();
  }
}

