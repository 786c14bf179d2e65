import * as os from 'node:os';
import type { VllmConfig } from '../config/vllm';
import type { Attention } from '../layers/attention';
import type { Device } from '../tensor/device';
import { DTYPE_BYTES } from '../tensor/dtype';
import { contiguousStrides } from '../tensor/tensor';
import { KvasirError } from '../utils/errors';

/** On the CPU an unsized pool takes at most this, and at most a quarter of the memory that is free. */
const DEFAULT_CPU_BYTES = 4 * 2 ** 30;

/** The paged KV memory of all attention layers. Owns it. */
export class KvCache {
  private constructor(
    private readonly layers: readonly Attention[],
    readonly numBlocks: number,
    readonly bytes: number,
  ) {}

  /** Sizes the pool, takes it from the device and gives each layer its part. */
  static allocate(vllmConfig: VllmConfig, device: Device): KvCache {
    const layers = [...vllmConfig.staticForwardContext.values()] as Attention[];
    const blockBytes = bytesPerBlock(vllmConfig, layers);
    const numBlocks = blocksOf(vllmConfig, blockBytes, device.type === 'cuda' ? cudaBudget(vllmConfig, device) : cpuBudget(os.freemem()));
    const cache = new KvCache(layers, numBlocks, numBlocks * blockBytes);
    try {
      for (const layer of layers) {
        const shape = [numBlocks, 2, layer.numKvHeads, vllmConfig.cache.blockSize, layer.headDim];
        const strides = contiguousStrides(shape);
        layer.kvCache.rebind(device.allocate(shape[0]! * strides[0]! * DTYPE_BYTES[vllmConfig.model.dtype]), 0, shape, strides);
      }
    } catch (error) {
      cache.dispose();
      throw error;
    }
    return cache;
  }

  /** Ends the layers' cache tensors too: they are of no use without memory. */
  dispose(): void {
    for (const { kvCache } of this.layers) kvCache.disposeStorage();
  }
}

/** Bytes of one block over all layers. */
export function bytesPerBlock(vllmConfig: VllmConfig, layers: readonly Pick<Attention, 'numKvHeads' | 'headDim'>[]): number {
  const { cache, model } = vllmConfig;
  return layers.reduce((sum, l) => sum + 2 * l.numKvHeads * cache.blockSize * l.headDim * DTYPE_BYTES[model.dtype], 0);
}

/** Bytes for an unsized pool on the CPU. */
export function cpuBudget(freeBytes: number): number {
  return Math.min(DEFAULT_CPU_BYTES, Math.floor(freeBytes / 4));
}

/** What is left of the share of a CUDA device that the engine may take: weights and activations are there already. */
function cudaBudget(vllmConfig: VllmConfig, device: Device): number {
  const { free, total } = device.memory();
  return Math.max(0, Math.floor(total * vllmConfig.cache.gpuMemoryUtilization - (total - free)));
}

/**
 * Blocks of the pool, the null block included: as configured, or what fits the byte budget, but never more than every
 * request at full length needs.
 * @throws KvasirError ERR_KVASIR_OUT_OF_MEMORY when not even one request of one block fits
 */
export function blocksOf(vllmConfig: VllmConfig, blockBytes: number, defaultBudget: number): number {
  const { cache, scheduler, model } = vllmConfig;
  if (cache.numBlocks !== null) return cache.numBlocks;
  const budget = cache.kvCacheBytes ?? defaultBudget;
  const useful = scheduler.maxNumSeqs * Math.ceil(model.maxModelLen / cache.blockSize) + 1;
  const blocks = Math.min(useful, Math.floor(budget / blockBytes));
  if (blocks < 2)
    throw new KvasirError('ERR_KVASIR_OUT_OF_MEMORY', `the KV cache got ${budget} bytes, one block of ${cache.blockSize} tokens needs ${blockBytes}: raise kvCacheBytes or gpuMemoryUtilization`);
  return blocks;
}

