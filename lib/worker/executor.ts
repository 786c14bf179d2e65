import type { Platform } from '../config/resolve';
import type { VllmConfig } from '../config/vllm';
import type { Executor, ExecutorInfo, ModelRunnerOutput, SchedulerOutput } from '../core/types';
import { resolveQuantization } from '../loader/model-loader';
import { cudaInfo, Device } from '../tensor/device';
import { ModelRunner } from './model-runner';

export interface ExecutorProgress {
  readonly onProgress?: (progress: { stage: string; loaded: number; total: number }) => void;
}

/** What the addon finds on this machine besides the CPU. Loads the addon. */
export function detectPlatform(): Platform {
  const { deviceCount, problem } = cudaInfo();
  return { cudaDevices: deviceCount, cudaProblem: problem };
}

/** The executor for a configuration: one rank in this thread. */
export function createExecutor(vllmConfig: VllmConfig, hooks: ExecutorProgress = {}): Executor {
  return new UniProcExecutor(vllmConfig, hooks);
}

/** One device, one model runner, in the calling thread (vllm UniProcExecutor). */
class UniProcExecutor implements Executor {
  private device: Device | null = null;
  private runner: ModelRunner | null = null;

  constructor(
    private readonly vllmConfig: VllmConfig,
    private readonly hooks: ExecutorProgress,
  ) {}

  async initialize(): Promise<ExecutorInfo> {
    const { device, numThreads } = this.vllmConfig.device;
    this.device = Device.create(device, numThreads);
    this.runner = new ModelRunner(await resolveQuantization(this.vllmConfig), this.device);
    return this.runner.initialize((loaded, total) => this.hooks.onProgress?.({ stage: 'weights', loaded, total }));
  }

  executeModel(step: SchedulerOutput): Promise<ModelRunnerOutput> {
    return this.runner!.execute(step);
  }

  async shutdown(): Promise<void> {
    const { runner, device } = this;
    this.runner = null;
    this.device = null;
    try {
      runner?.dispose();
    } finally {
      await device?.close();
    }
  }
}
