import type { VllmConfig } from '../config/vllm';
import type { Device } from '../tensor/device';
import { KvasirError } from '../utils/errors';

/** What memory is taken for. */
export type MemoryUse = 'weights' | 'inputs' | 'activations' | 'logits' | 'kvCache';

const NAMES: Readonly<Record<MemoryUse, string>> = {
  weights: 'weights',
  inputs: 'inputs and sampling state',
  activations: 'activations',
  logits: 'logits',
  kvCache: 'KV cache',
};

/** Bytes free and in all on a CUDA device. */
export interface DeviceMemory {
  readonly free: number;
  readonly total: number;
}

/**
 * The share of a CUDA device that an engine may take (gpuMemoryUtilization, which counts what other programs hold), and
 * errors that say what does not fit, what there is, and which option helps. Other devices are asked for memory unseen.
 */
export class MemoryBudget {
  private readonly taken = new Map<MemoryUse, number>();

  /** @param memory what the device has before the engine takes anything; null for a device without a budget */
  constructor(
    private readonly vllmConfig: VllmConfig,
    private readonly memory: DeviceMemory | null,
  ) {}

  static of(vllmConfig: VllmConfig, device: Device): MemoryBudget {
    return new MemoryBudget(vllmConfig, device.type === 'cuda' ? device.memory() : null);
  }

  /**
   * Runs `allocate`, which takes at least `bytes`, unless they cannot fit.
   * @throws KvasirError ERR_KVASIR_OUT_OF_MEMORY with sizes and advice; whatever else `allocate` throws
   */
  take<T>(use: MemoryUse, bytes: number, allocate: () => T): T {
    this.check(use, bytes);
    this.taken.set(use, bytes);
    try {
      const result = allocate();
      return result instanceof Promise ? (result.catch((error: unknown) => Promise.reject(this.explained(use, error))) as T) : result;
    } catch (error) {
      throw this.explained(use, error);
    }
  }

  /** A KV cache of a given size is the caller's word on the memory; the share is for sizing one. */
  private get share(): number {
    const { numBlocks, kvCacheBytes, gpuMemoryUtilization } = this.vllmConfig.cache;
    return numBlocks === null && kvCacheBytes === null ? gpuMemoryUtilization : 1;
  }

  private check(use: MemoryUse, bytes: number): void {
    if (!this.memory) return;
    const { free, total } = this.memory;
    const own = [...this.taken.values()].reduce((sum, taken) => sum + taken, 0);
    const held = total - free + own;
    const room = Math.max(0, Math.floor(total * this.share) - held);
    if (bytes <= room) return;
    const wanted = Math.ceil((100 * (held + bytes)) / total) / 100;
    const remedy = this.share < 1 && wanted <= 1 ? `raise gpuMemoryUtilization to ${wanted} or more, or ${this.remedy(use)}` : this.remedy(use);
    const where = `${this.share < 1 ? `gpuMemoryUtilization ${this.share} of ` : ''}${gib(total)}, less ${gib(held)} in use${own > 0 ? `, ${gib(own)} of them by this model` : ''}`;
    throw new KvasirError('ERR_KVASIR_OUT_OF_MEMORY', `${NAMES[use]} (${this.sizes(use)}) need ${gib(bytes)} of device memory, there are ${gib(room)} (${where}): ${remedy}`);
  }

  /** What a device without room says knows nothing of options. An error without a cause has said it all. */
  private explained(use: MemoryUse, error: unknown): unknown {
    if (!(error instanceof KvasirError) || error.code !== 'ERR_KVASIR_OUT_OF_MEMORY' || error.cause === undefined) return error;
    return new KvasirError(error.code, `no memory for ${NAMES[use]} (${this.sizes(use)}): ${error.message}: ${this.remedy(use)}`, { cause: error });
  }

  /** The options that decide how large this part is. */
  private sizes(use: MemoryUse): string {
    const { model, scheduler, cache } = this.vllmConfig;
    switch (use) {
      case 'weights':
        return `dtype ${model.dtype}`;
      case 'inputs':
        return `maxNumSeqs ${scheduler.maxNumSeqs}, maxModelLen ${model.maxModelLen}`;
      case 'activations':
        return `maxNumBatchedTokens ${scheduler.maxNumBatchedTokens}`;
      case 'logits':
        return `maxNumSeqs ${scheduler.maxNumSeqs}`;
      case 'kvCache':
        return cache.numBlocks !== null ? `numKvBlocks ${cache.numBlocks}` : `kvCacheBytes ${cache.kvCacheBytes}`;
    }
  }

  /** The option that makes this part smaller. */
  private remedy(use: MemoryUse): string {
    const { model, cache } = this.vllmConfig;
    switch (use) {
      case 'weights':
        return `${model.dtype === 'float32' ? 'use dtype bfloat16' : 'use a smaller or a quantized checkpoint'}, or end other programs that use the device`;
      case 'inputs':
        return 'lower maxNumSeqs or maxModelLen';
      case 'activations':
        return 'lower maxNumBatchedTokens';
      case 'logits':
        return 'lower maxNumSeqs';
      case 'kvCache':
        return `lower ${cache.numBlocks !== null ? 'numKvBlocks' : 'kvCacheBytes'}`;
    }
  }
}

function gib(bytes: number): string {
  return `${(bytes / 2 ** 30).toFixed(2)} GiB`;
}
