import type { VllmConfig } from '../config/vllm';
import type { ExecutorInfo, ModelRunnerOutput, SchedulerOutput } from '../core/types';
import { Communicator, setTensorParallelGroup } from '../distributed/communicator';
import { resolveQuantization } from '../loader/model-loader';
import { cudaInfo, Device } from '../tensor/device';
import { ModelRunner } from './model-runner';

/** How the worker of a rank reaches the other ranks. */
export interface RankGroup {
  readonly rank: number;
  readonly size: number;
  /** Makes this rank's end of the channel for tensors. */
  createCommunicator(device: Device): Communicator;
  /** Every rank's bytes, by rank. */
  exchange(bytes: Uint8Array): Promise<readonly Uint8Array[]>;
  /** The KV blocks that all ranks can have, from what each could. */
  agreeOnBlocks(fitting: readonly number[]): number;
}

/** One rank: its device, its part of the model, and the channel for tensors (vllm WorkerWrapperBase). */
export class RankWorker {
  private communicator: Communicator | null = null;
  private runner: ModelRunner | null = null;

  private constructor(
    private readonly vllmConfig: VllmConfig,
    private readonly group: RankGroup | null,
    private readonly device: Device,
  ) {}

  /** @param group the ranks that share the model; null for one rank */
  static create(vllmConfig: VllmConfig, group: RankGroup | null): RankWorker {
    const { device, numThreads } = vllmConfig.device;
    return new RankWorker(vllmConfig, group, Device.create(device, numThreads, deviceOrdinal(vllmConfig)));
  }

  /** Joins the ranks and loads the model; resolves with what the scheduler must know. */
  async initialize(onProgress: (loaded: number, total: number) => void): Promise<ExecutorInfo> {
    const { group } = this;
    if (group) await this.connect(group);
    this.runner = new ModelRunner(await resolveQuantization(this.vllmConfig), this.device);
    if (!group) return this.runner.initialize(onProgress);
    const info = await this.runner.initialize(onProgress, (numBlocks) => agree(group, numBlocks));
    // Ready only when all are: another rank may lack memory for its blocks, or be gone although what it had to say before is here.
    await group.exchange(new Uint8Array());
    return info;
  }

  /** Runs a step. Everything is queued before the first await. */
  execute(step: SchedulerOutput): Promise<ModelRunnerOutput> {
    return this.runner!.execute(step);
  }

  /** For ranks that share a device, after every step; see CudaGraphRunner. */
  captureLast(): void {
    this.runner!.captureLast();
  }

  /** Work that waits for other ranks fails from now on instead. */
  abort(): void {
    this.communicator?.abort();
  }

  /** Frees everything. */
  async dispose(): Promise<void> {
    const { runner, communicator } = this;
    this.runner = this.communicator = null;
    try {
      runner?.dispose();
    } finally {
      communicator?.dispose();
      await this.device.close();
    }
  }

  private async connect(group: RankGroup): Promise<void> {
    const communicator = (this.communicator = group.createCommunicator(this.device));
    await communicator.connect(await group.exchange(communicator.address()));
    setTensorParallelGroup(this.vllmConfig.parallel, communicator);
  }
}

/** A launcher may show each rank only its own device, or all of them to everyone. */
function deviceOrdinal({ device, parallel }: VllmConfig): number {
  if (device.device === 'cpu' || parallel.launch === undefined) return 0;
  const { deviceCount } = cudaInfo();
  return deviceCount === 1 ? 0 : parallel.launch.localRank;
}

async function agree(group: RankGroup, numBlocks: number): Promise<number> {
  const all = await group.exchange(Buffer.from(String(numBlocks)));
  return group.agreeOnBlocks(all.map((bytes) => Number(Buffer.from(bytes).toString())));
}
