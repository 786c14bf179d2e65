import type { VllmConfig } from '../config/vllm';
import type { TextGenerationModel } from '../models/interfaces';
import { initRegisteredModel } from '../models/registry';
import { fillDummy } from '../nn/dummy-weights';
import { checkAllLoaded, loadWeights } from '../nn/load-weights';
import type { CheckpointTypes } from '../quantization/checkpoint-types';
import { quantizationFromCheckpoint } from '../quantization/registry';
import type { Device } from '../tensor/device';
import { inScope, TemporaryScope } from '../tensor/scope';
import { openCheckpoint, type Checkpoint } from './checkpoint';
import { FileWeight, type ReadCounter } from './file-weight';

export interface LoadModelOptions {
  /** How far into the checkpoint loading is, and how large that is, in bytes: all of it, of which this rank reads its part. */
  readonly onProgress?: (loaded: number, total: number) => void;
}

export interface LoadReport {
  /** What was read of the checkpoint's tensors: the shards of this rank. 0 for dummies. */
  readonly bytesRead: number;
}

/** Progress is reported about this many times, but not for less than this many bytes. */
const PROGRESS_STEPS = 100;
const PROGRESS_MIN_BYTES = 1 << 20;

/**
 * Builds the model of a configuration: modules and shapes, no memory. Attention layers register themselves.
 * @throws KvasirError ERR_KVASIR_UNSUPPORTED_MODEL, ERR_KVASIR_REGISTRY, ERR_KVASIR_UNSUPPORTED, ERR_KVASIR_QUANTIZATION, ERR_KVASIR_LAYER
 */
export function buildModel(vllmConfig: VllmConfig): TextGenerationModel {
  const quantization = quantizationFromCheckpoint(vllmConfig.quantization);
  const model = initRegisteredModel({ ...vllmConfig, quantization }, '', vllmConfig.model.architectures);
  try {
    quantization.checkModel?.(Array.from(model.modules(), (module) => module.prefix));
  } catch (error) {
    disposeModel(model);
    throw error;
  }
  return model;
}

/**
 * The configuration with its quantization read. Recipes of AWQ and GPTQ need not say which layers they left out: then the
 * types of the checkpoint's tensors do, which {@link buildModel} alone does not look at.
 */
export async function resolveQuantization(vllmConfig: VllmConfig): Promise<VllmConfig> {
  if (vllmConfig.quantization === null) return vllmConfig;
  const types = vllmConfig.load.loadFormat === 'dummy' ? null : await readCheckpointTypes(vllmConfig.model.modelPath);
  return { ...vllmConfig, quantization: quantizationFromCheckpoint(vllmConfig.quantization, types) };
}

async function readCheckpointTypes(modelPath: string): Promise<CheckpointTypes> {
  const checkpoint = await openCheckpoint(modelPath);
  try {
    return new Map(Array.from(checkpoint.tensors.values(), ({ name, safetensorsDtype }) => [name, safetensorsDtype]));
  } finally {
    await checkpoint.close();
  }
}

/** Bytes that the parameters and buffers of a model take. */
export function weightBytes(model: TextGenerationModel): number {
  let bytes = 0;
  for (const param of model.parameters()) bytes += param.bytes;
  for (const buffer of model.buffers()) bytes += buffer.bytes;
  return bytes;
}

/**
 * Gives the model memory and fills it: from the safetensors beside config.json, or with seeded random values
 * (loadFormat 'dummy'). Resolves when everything is on the device, packed for its kernels.
 * @throws KvasirError ERR_KVASIR_CHECKPOINT, ERR_KVASIR_WEIGHTS, ERR_KVASIR_MODEL_NOT_FOUND, ERR_KVASIR_OUT_OF_MEMORY
 */
export async function loadModel(model: TextGenerationModel, vllmConfig: VllmConfig, device: Device, options: LoadModelOptions = {}): Promise<LoadReport> {
  const checkpoint = vllmConfig.load.loadFormat === 'dummy' ? null : await openCheckpoint(vllmConfig.model.modelPath);
  const scope = new TemporaryScope(device);
  const counter: ReadCounter = { bytesRead: 0 };
  // A failed read is reported by the first fence after it, so every fence counts; files stay open until all have passed.
  const fences: Promise<void>[] = [];
  try {
    for (const param of model.parameters()) param.allocate(device);
    for (const buffer of model.buffers()) buffer.allocate(device);
    inScope(scope, () => {
      if (checkpoint) loadInto(model, weightsOf(checkpoint, device, fences, counter, options));
      else [...model.parameters()].forEach((param, index) => fillDummy(param, vllmConfig.seed * 1_000_003 + index));
    });
    fences.push(device.synchronize());
    await Promise.all(fences);
    for (const module of model.modules()) await module.processWeightsAfterLoading();
  } finally {
    await Promise.allSettled([...fences, device.synchronize()]);
    scope.dispose();
    await checkpoint?.close();
  }
  if (checkpoint) options.onProgress?.(checkpoint.totalBytes, checkpoint.totalBytes);
  return counter;
}

/** By the model's own method, where it has one; then nothing may be missing. */
function loadInto(model: TextGenerationModel, weights: Iterable<FileWeight>): void {
  if (model.loadWeights) model.loadWeights(weights);
  else loadWeights(model, weights);
  checkAllLoaded(model);
}

/** Every tensor of a checkpoint; progress is reported as the reads complete. */
function* weightsOf(checkpoint: Checkpoint, device: Device, fences: Promise<void>[], counter: ReadCounter, { onProgress }: LoadModelOptions): Generator<FileWeight> {
  const total = checkpoint.totalBytes;
  const step = Math.max(PROGRESS_MIN_BYTES, total / PROGRESS_STEPS);
  let queued = 0;
  let reported = 0;
  for (const entry of checkpoint.tensors.values()) {
    const weight = FileWeight.of(entry, counter);
    yield weight;
    queued += weight.bytes;
    if (onProgress && queued - reported >= step && queued < total) {
      const loaded = (reported = queued);
      fences.push(device.synchronize().then(() => onProgress(loaded, total)));
    }
  }
}

/** Frees a model's weights. */
export function disposeModel(model: TextGenerationModel): void {
  for (const param of model.parameters()) param.dispose();
  for (const buffer of model.buffers()) buffer.dispose();
}
