import { withForwardContext } from '../../lib/attention/forward-context';
import { resolveVllmConfig } from '../../lib/config/resolve';
import type { ComputeDType, DeviceType, VllmConfig } from '../../lib/config/vllm';
import { buildModel, disposeModel, loadModel, resolveQuantization } from '../../lib/loader/model-loader';
import type { TextGenerationModel } from '../../lib/models/interfaces';
import { Device, liveStorages } from '../../lib/tensor/device';
import { inScope, TemporaryScope } from '../../lib/tensor/scope';
import { detectPlatform } from '../../lib/worker/executor';
import { InputBatch } from '../../lib/worker/input-batch';
import { InputBuffers } from '../../lib/worker/input-buffers';
import { KvCache } from '../../lib/worker/kv-cache';
import { runnableModel, type RunnableModel } from '../../lib/worker/runnable-model';
import { makeSamplingParams } from '../fixtures/vllm-config';

/** One model, run directly: one prompt in, the logits of every position out. No scheduler, no sampler. */
export class ForwardHarness {
  private readonly runnable: RunnableModel;

  private constructor(
    readonly config: VllmConfig,
    private readonly device: Device,
    private readonly model: TextGenerationModel,
    private readonly kvCache: KvCache,
  ) {
    this.runnable = runnableModel(model, config);
  }

  static async load(modelDir: string, dtype: ComputeDType, deviceType: DeviceType = 'cpu'): Promise<ForwardHarness> {
    const config = await resolveVllmConfig({ model: modelDir, dtype, device: deviceType, numKvBlocks: 64, numThreads: 2 }, detectPlatform());
    const device = Device.create(deviceType, 2);
    const model = buildModel(await resolveQuantization(config));
    await loadModel(model, config, device);
    return new ForwardHarness(config, device, model, KvCache.allocate(config, device));
  }

  /** float32 logits [promptIds.length][vocabSize]. */
  async logits(promptIds: readonly number[]): Promise<Float32Array[]> {
    const n = promptIds.length;
    const { blockSize } = this.config.cache;
    const inputs = new InputBuffers(this.device, n, 1, 63);
    const batch = new InputBatch(1, blockSize);
    const scope = new TemporaryScope(this.device);
    try {
      const state = batch.add({ requestId: 'only', tokenIds: promptIds, numPromptTokens: n, samplingParams: makeSamplingParams() });
      state.blockIds.push(...Array.from({ length: 63 }, (_, i) => i + 1));
      inputs.tables.writeBlocks(state.row, 0, state.blockIds);
      inputs.tables.flush();
      const share = { requestId: 'only', numComputedTokens: 0, numScheduledTokens: n, newBlockIds: [] };
      batch.buildInputs({ newRequests: [], scheduled: [share], totalNumScheduledTokens: n, removedRequestIds: [] }, [state], inputs.begin(n, 1));
      const attention = inputs.upload();
      const logits = inScope(scope, () =>
        this.runnable.computeLogits(withForwardContext({ attention }, () => this.runnable.forward(inputs.get('inputIds'), inputs.get('positions')))),
      );
      const values = (await logits.read()) as Float32Array;
      return promptIds.map((_, i) => values.slice(i * logits.size(1), (i + 1) * logits.size(1)));
    } finally {
      scope.dispose();
      inputs.dispose();
    }
  }

  async close(): Promise<void> {
    this.kvCache.dispose();
    disposeModel(this.model);
    await this.device.close();
    expect(liveStorages().count).toBe(0);
  }
}

export interface Golden {
  readonly greedy: readonly { prompt_ids: number[]; output_ids: number[]; min_gap: number; steps_with_gap_below_0_05: number[]; text?: string }[];
  readonly last_logits?: readonly { prompt_ids: number[]; logits: number[] }[];
  readonly prompt_logprobs?: readonly { ids: number[]; logprobs: (number | null)[]; top5_ids: (number[] | null)[]; top5_logprobs: (number[] | null)[] }[];
}

/** max |a - b| / max |b|: logits have an arbitrary offset, so single small values say nothing. */
export function relativeMaxError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  let worst = 0;
  let scale = 0;
  for (let i = 0; i < expected.length; i++) {
    worst = Math.max(worst, Math.abs(actual[i]! - expected[i]!));
    scale = Math.max(scale, Math.abs(expected[i]!));
  }
  return actual.length === expected.length ? worst / scale : NaN;
}
