import type { Platform } from '../config/resolve';
import type { VllmConfig } from '../config/vllm';
import type { Executor, ExecutorInfo, ModelRunnerOutput, SchedulerOutput } from '../core/types';
import { cudaInfo } from '../tensor/device';
import { MultiprocExecutor } from './multiproc-executor';
import { readSecret } from './rank-identity';
import { serveRank as serveWithSecret } from './rank-server';
import { RankWorker } from './rank-worker';

export interface ExecutorProgress {
  readonly onProgress?: (progress: { stage: string; loaded: number; total: number }) => void;
}

/** What the addon finds on this machine besides the CPU. Loads the addon. */
export function detectPlatform(): Platform {
  const { deviceCount, problem } = cudaInfo();
  return { cudaDevices: deviceCount, cudaProblem: problem };
}

/** The executor for a configuration: one rank in this thread, or rank 0 of several. */
export function createExecutor(vllmConfig: VllmConfig, hooks: ExecutorProgress = {}): Executor {
  const onWeights = (loaded: number, total: number): void => hooks.onProgress?.({ stage: 'weights', loaded, total });
  return vllmConfig.parallel.launch ? new MultiprocExecutor(vllmConfig, vllmConfig.parallel.launch, onWeights) : new UniProcExecutor(vllmConfig, onWeights);
}

/** Serves a rank other than 0 that a launcher started; see rank-server.ts. */
export async function serveRank(vllmConfig: VllmConfig): Promise<void> {
  const launch = vllmConfig.parallel.launch!;
  await serveWithSecret(vllmConfig, launch, await readSecret(launch));
}

/** One device, one model runner, in the calling thread (vllm UniProcExecutor). */
class UniProcExecutor implements Executor {
  private worker: RankWorker | null = null;

  constructor(
    private readonly vllmConfig: VllmConfig,
    private readonly onWeights: (loaded: number, total: number) => void,
  ) {}

  async initialize(): Promise<ExecutorInfo> {
    this.worker = RankWorker.create(this.vllmConfig, null);
    return this.worker.initialize(this.onWeights);
  }

  executeModel(step: SchedulerOutput): Promise<ModelRunnerOutput> {
    return this.worker!.execute(step);
  }

  async shutdown(): Promise<void> {
    const { worker } = this;
    this.worker = null;
    await worker?.dispose();
  }
}
