import { newStaticForwardContext } from '../config/resolve';
import type { VllmConfig } from '../config/vllm';
import type { Executor, ExecutorInfo, ModelRunnerOutput, SchedulerOutput } from '../core/types';
import { Communicator } from '../distributed/communicator';
import { RankWorker, type RankGroup } from './rank-worker';

/**
 * All ranks of a tensor-parallel group in the calling thread, each with a stream of its own on one device: for tests of what ranks
 * compute, on machines without two devices. The configuration's rank and launch do not matter.
 */
export function createLocalGroupExecutor(vllmConfig: VllmConfig, size: number): Executor {
  return new LocalGroupExecutor(vllmConfig, size);
}

class LocalGroupExecutor implements Executor {
  private workers: readonly RankWorker[] = [];
  /** Settles when the device is idle. */
  private idle: Promise<unknown> = Promise.resolve();

  constructor(
    private readonly vllmConfig: VllmConfig,
    private readonly size: number,
  ) {}

  async initialize(): Promise<ExecutorInfo> {
    const groups = localGroups(this.vllmConfig, this.size);
    this.workers = groups.map((group) => RankWorker.create(this.configOf(group.rank), group));
    const infos = await Promise.all(this.workers.map((worker) => worker.initialize(() => undefined)));
    return infos[0]!;
  }

  /** One step after another, also with asynchronous scheduling. */
  executeModel(step: SchedulerOutput): Promise<ModelRunnerOutput> {
    const output = this.idle.then(() => this.execute(step));
    this.idle = output.catch(() => undefined);
    return output;
  }

  private async execute(step: SchedulerOutput): Promise<ModelRunnerOutput> {
    const outputs = await Promise.all(this.workers.map((worker) => worker.execute(step)));
    for (const worker of this.workers) worker.captureLast();
    return outputs[0]!;
  }

  async shutdown(): Promise<void> {
    const { workers } = this;
    this.workers = [];
    for (const worker of workers) worker.abort();
    await Promise.all(workers.map((worker) => worker.dispose()));
  }

  private configOf(tpRank: number): VllmConfig {
    const { vllmConfig, size } = this;
    return { ...vllmConfig, parallel: { tensorParallelSize: size, tpRank }, staticForwardContext: newStaticForwardContext() };
  }
}

/** The channels of ranks that share a thread. */
function localGroups({ cache }: VllmConfig, size: number): RankGroup[] {
  const communicators: Communicator[] = [];
  const exchange = new LocalExchange(size);
  // What fits was counted by each rank as if it were alone on the device.
  const shared = cache.numBlocks === null && cache.kvCacheBytes === null ? size : 1;
  return Array.from({ length: size }, (_, rank) => ({
    rank,
    size,
    createCommunicator: (device) => (communicators[rank] = Communicator.create(device, { kind: 'local', rank, size, first: communicators[0] })),
    exchange: (bytes) => exchange.give(rank, bytes),
    agreeOnBlocks: (fitting) => Math.max(2, Math.floor(Math.min(...fitting) / shared)),
  }));
}

interface Round {
  readonly parts: Uint8Array[];
  missing: number;
  readonly done: Promise<readonly Uint8Array[]>;
  readonly finish: () => void;
}

/** The n-th call of every rank is one round: it resolves when the last rank has given its bytes. */
class LocalExchange {
  private readonly rounds: Round[] = [];
  private readonly next: number[];

  constructor(private readonly size: number) {
    this.next = new Array<number>(size).fill(0);
  }

  give(rank: number, bytes: Uint8Array): Promise<readonly Uint8Array[]> {
    const round = (this.rounds[this.next[rank]!++] ??= this.newRound());
    round.parts[rank] = bytes;
    if (--round.missing === 0) round.finish();
    return round.done;
  }

  private newRound(): Round {
    const parts: Uint8Array[] = [];
    let finish = (): void => undefined;
    const done = new Promise<readonly Uint8Array[]>((resolve) => {
      finish = () => resolve(parts);
    });
    return { parts, missing: this.size, done, finish };
  }
}
