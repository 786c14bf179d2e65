import { withForwardContext } from '../../lib/attention/forward-context';
import { resolveVllmConfig } from '../../lib/config/resolve';
import type { ComputeDType, DeviceType, VllmConfig } from '../../lib/config/vllm';
import { buildModel, disposeModel, loadModel } from '../../lib/loader/model-loader';
import type { TextGenerationModel } from '../../lib/models/interfaces';
import { Device, liveStorages } from '../../lib/tensor/device';
import { inScope, TemporaryScope } from '../../lib/tensor/scope';
import { detectPlatform } from '../../lib/worker/executor';
import { InputBuffers } from '../../lib/worker/input-buffers';
import { KvCache } from '../../lib/worker/kv-cache';

/** One model, run directly: one prompt in, the logits of every position out. No scheduler, no sampler. */
export class ForwardHarness {
  private constructor(
    readonly config: VllmConfig,
    private readonly device: Device,
    private readonly model: TextGenerationModel,
    private readonly kvCache: KvCache,
  ) {}

  static async load(modelDir: string, dtype: ComputeDType, deviceType: DeviceType = 'cpu'): Promise<ForwardHarness> {
    const config = await resolveVllmConfig({ model: modelDir, dtype, device: deviceType, numKvBlocks: 64, numThreads: 2 }, detectPlatform());
    const device = Device.create(deviceType, 2);
    const model = buildModel(config);
    await loadModel(model, config, device);
    return new ForwardHarness(config, device, model, KvCache.allocate(config, device));
  }

  /** float32 logits [promptIds.length][vocabSize]. */
  async logits(promptIds: readonly number[]): Promise<Float32Array[]> {
    const n = promptIds.length;
    const inputs = new InputBuffers(this.device, n, 1, 63);
    const scope = new TemporaryScope(this.device);
    try {
      inputs.writeBlocks(0, 0, Array.from({ length: 63 }, (_, i) => i + 1));
      const attention = inputs.upload({
        inputIds: Int32Array.from(promptIds),
        positions: Int32Array.from(promptIds, (_, i) => i),
        slotMapping: BigInt64Array.from(promptIds, (_, i) => BigInt(16 + i)),
        queryStartLoc: Int32Array.of(0, n),
        seqLens: Int32Array.of(n),
        seqRows: Int32Array.of(0),
        feedbackRows: Int32Array.from(promptIds, () => -1),
      });
      const logits = inScope(scope, () =>
        this.model.computeLogits(withForwardContext({ attention }, () => this.model.forward(inputs.inputIds, inputs.positions))),
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
