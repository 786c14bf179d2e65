import type { Device } from '../tensor/device';
import type { Tensor } from '../tensor/tensor';
import type { ResolvedSamplingParams } from './params';

/** What one request keeps on the device for one feature; freed when the request leaves the batch. */
export interface LogitsFeatureState {
  /** Changes the request's row of logits float32 [numRows, vocabSize]. */
  apply(logits: Tensor, logitRow: number, numOutputTokens: number): void;
  /** Whether {@link apply} has anything to do at this many output tokens. */
  isActive(numOutputTokens: number): boolean;
  dispose(): void;
}

/** A sampling parameter that edits single rows of logits before penalties and temperature. */
export interface LogitsFeature {
  readonly name: string;
  /** The state of a request that uses the feature, or null. */
  create(params: ResolvedSamplingParams, device: Device): LogitsFeatureState | null;
}

/** An int32 tensor [ids.length] on the device that the caller owns. */
export function idsTensor(device: Device, ids: readonly number[]): Tensor {
  const tensor = device.empty([ids.length], 'int32');
  tensor.write(Int32Array.from(ids));
  return tensor;
}
