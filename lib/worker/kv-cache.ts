import * as os from 'node:os';
import { maxBlocksHeld } from '../config/kv-cache-groups';
import type { DType, VllmConfig } from '../config/vllm';
import type { Attention } from '../layers/attention';
import type { Device, Storage } from '../tensor/device';
import { DTYPE_BYTES } from '../tensor/dtype';
import { contiguousStrides } from '../tensor/tensor';
import { KvasirError } from '../utils/errors';
import { singleGroup, type KvCacheGroup } from './kv-cache-groups';

/** On the CPU an unsized pool takes at most this, and at most a quarter of the memory that is free. */
const DEFAULT_CPU_BYTES = 4 * 2 ** 30;

const ONE_GROUP = [{ slidingWindow: null }];

/** The paged KV memory of all attention layers. Owns it. */
export class KvCache {
  private constructor(
    private readonly layers: readonly Attention[],
    readonly numBlocks: number,
    readonly bytes: number,
  ) {}

  /**
   * Blocks for which there is memory now, or that options name.
   * @throws KvasirError ERR_KVASIR_OUT_OF_MEMORY
   */
  static fittingBlocks(vllmConfig: VllmConfig, device: Device, groups: readonly KvCacheGroup[] = singleGroup(vllmConfig)): number {
    const ranksHere = vllmConfig.parallel.launch?.localSize ?? 1;
    const budget = device.type === 'cuda' ? cudaBudget(vllmConfig, device) : Math.floor(cpuBudget(os.freemem()) / ranksHere);
    return blocksOf(vllmConfig, bytesPerBlock(vllmConfig, largest(groups).layers), budget, groups);
  }

  /**
   * Takes the pool from the device and gives each layer its part: the n-th layers of all groups have the same memory, in which every
   * block belongs to one group at a time.
   */
  static allocate(
    vllmConfig: VllmConfig,
    device: Device,
    groups: readonly KvCacheGroup[] = singleGroup(vllmConfig),
    numBlocks = KvCache.fittingBlocks(vllmConfig, device, groups),
  ): KvCache {
    const blockBytes = bytesPerBlock(vllmConfig, largest(groups).layers);
    const cache = new KvCache(groups.flatMap((group) => group.layers), numBlocks, numBlocks * blockBytes);
    try {
      largest(groups).layers.forEach((owner, place) => {
        const storage = device.allocate(numBlocks * bytesPerBlock(vllmConfig, [owner]));
        for (const { layers } of groups) {
          const layer = layers[place];
          if (layer) bind(vllmConfig, layer, storage, numBlocks);
        }
      });
    } catch (error) {
      cache.dispose();
      throw error;
    }
    return cache;
  }

  /** Ends the layers' cache tensors too: they are of no use without memory. */
  dispose(): void {
    for (const { kvCache } of this.layers) kvCache.disposeStorage(); // for storage that layers share, the first one does it
  }
}

function bind({ cache }: VllmConfig, { kvCache, numKvHeads, headDim }: Attention, storage: Storage, numBlocks: number): void {
  const shape = [numBlocks, 2, numKvHeads, cache.blockSize, headDim];
  kvCache.rebind(storage, 0, shape, contiguousStrides(shape));
}

function largest(groups: readonly KvCacheGroup[]): KvCacheGroup {
  return groups.reduce((most, group) => (group.layers.length > most.layers.length ? group : most));
}

/** What the size of a layer's cache follows from. */
type CachedLayer = Pick<Attention, 'numKvHeads' | 'headDim'> & { readonly kvCache: { readonly dtype: DType } };

/** Bytes of one block for these layers. */
export function bytesPerBlock({ cache }: VllmConfig, layers: readonly CachedLayer[]): number {
  return layers.reduce((sum, l) => sum + 2 * l.numKvHeads * cache.blockSize * l.headDim * DTYPE_BYTES[l.kvCache.dtype], 0);
}

/** Bytes of the pool when options give its size, 0 when it is made to fit. */
export function requestedBytes(vllmConfig: VllmConfig, groups: readonly KvCacheGroup[] = singleGroup(vllmConfig)): number {
  const { numBlocks, kvCacheBytes } = vllmConfig.cache;
  if (numBlocks === null && kvCacheBytes === null) return 0;
  const blockBytes = bytesPerBlock(vllmConfig, largest(groups).layers);
  return blocksOf(vllmConfig, blockBytes, 0, groups) * blockBytes;
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
export function blocksOf(vllmConfig: VllmConfig, blockBytes: number, defaultBudget: number, groups: readonly Pick<KvCacheGroup, 'slidingWindow'>[] = ONE_GROUP): number {
  const { cache, scheduler } = vllmConfig;
  if (cache.numBlocks !== null) return cache.numBlocks;
  const budget = cache.kvCacheBytes ?? defaultBudget;
  const useful = scheduler.maxNumSeqs * groups.reduce((sum, group) => sum + usefulBlocks(vllmConfig, group.slidingWindow), 0) + 1;
  const blocks = Math.min(useful, Math.floor(budget / blockBytes));
  const least = groups.length + 1;
  if (blocks < least)
    throw new KvasirError('ERR_KVASIR_OUT_OF_MEMORY', `the KV cache got ${budget} bytes, and ${least} blocks of ${cache.blockSize} tokens need ${blockBytes} bytes each: ${remedyFor(vllmConfig)}`);
  return blocks;
}

/** Blocks of one request in one group. With a prefix cache, those before the window are worth keeping too. */
function usefulBlocks({ cache, scheduler, model }: VllmConfig, slidingWindow: number | null): number {
  return maxBlocksHeld(cache.enablePrefixCaching ? null : slidingWindow, model.maxModelLen, scheduler.maxNumBatchedTokens, cache.blockSize);
}

function remedyFor({ cache, scheduler, device }: VllmConfig): string {
  if (cache.kvCacheBytes !== null) return 'raise kvCacheBytes';
  if (device.device === 'cpu') return 'give kvCacheBytes, or free memory';
  return `raise gpuMemoryUtilization (${cache.gpuMemoryUtilization}), or lower maxNumBatchedTokens (${scheduler.maxNumBatchedTokens}) or maxNumSeqs (${scheduler.maxNumSeqs})`;
}
