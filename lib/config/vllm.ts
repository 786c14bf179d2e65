import type { ModelConfig } from './model';

/** Element types of tensors. `float8_e4m3` and the integer types appear in checkpoints and inputs, not as compute types. */
export type DType = 'float32' | 'float16' | 'bfloat16' | 'int32' | 'int64' | 'uint8' | 'int8' | 'float8_e4m3';

/** Types a model can compute in. */
export type ComputeDType = 'float32' | 'float16' | 'bfloat16';

export type DeviceType = 'cpu' | 'cuda';

export interface CacheConfig {
  /** Tokens per KV block. The CPU and CUDA attention kernels know 16. */
  blockSize: number;
  /** Blocks in the pool, the null block (id 0) included; null until the worker has sized the pool. */
  numBlocks: number | null;
  /** Element type of the cache; auto: what the checkpoint is made for, else the model's. fp8 is float8_e4m3. */
  kvCacheDtype: 'auto' | 'fp8';
  /** Bytes for the pool when numBlocks is null (CPU). */
  kvCacheBytes: number | null;
  /** Share of the device's memory that the engine may take (CUDA). */
  gpuMemoryUtilization: number;
  enablePrefixCaching: boolean;
  /** Layers with a sliding window hold blocks for what they can still see only. */
  hybridKvCacheManager: boolean;
}

export type SchedulingPolicy = 'fcfs' | 'priority';

export interface SchedulerConfig {
  /** Token budget of one step. */
  maxNumBatchedTokens: number;
  /** Requests in one step. */
  maxNumSeqs: number;
  enableChunkedPrefill: boolean;
  policy: SchedulingPolicy;
  /** The next step is planned and queued while the device runs the current one; sampled tokens stay on the device. */
  asyncScheduling: boolean;
}

export interface ParallelConfig {
  tensorParallelSize: number;
  /** Rank of this process, 0 <= tpRank < tensorParallelSize. */
  tpRank: number;
  /** How ranks in processes of their own are started and met; absent for one rank, and for ranks that share a process. */
  launch?: RankLaunch;
}

/** Where a rank runs and how it meets the others. */
export interface RankLaunch {
  /** Rank among the ranks of this host, and their number: they share its cores, its memory and its devices. */
  readonly localRank: number;
  readonly localSize: number;
  /** Where rank 0 listens, when something else started the ranks; null: rank 0 starts the others itself, on this host. */
  readonly rendezvous: { readonly host: string; readonly port: number } | null;
  /** Absolute path of a file with the secret that the ranks show each other; null: none. */
  readonly secretFile: string | null;
  /** How long ranks wait for each other at the start. */
  readonly startTimeoutMs: number;
  /** Absolute paths of modules that ranks which rank 0 starts load first. */
  readonly imports: readonly string[];
}

export interface DeviceConfig {
  device: DeviceType;
  /** CPU threads of the native pool; the default counts the cores this process may use (affinity and cgroup quota). */
  numThreads: number;
  /** Results of a request do not depend on its batch (vLLM's VLLM_BATCH_INVARIANT); the CPU's never do. */
  batchInvariant: boolean;
  /** Absolute path of the folder for what is measured once and kept between processes; null: nothing is kept. */
  cacheDir: string | null;
}

export interface LoadConfig {
  /** 'dummy' fills weights with small seeded random values instead of reading a checkpoint. */
  loadFormat: 'auto' | 'safetensors' | 'dummy';
}

/** What an attention layer tells the worker: its name and the shape of its KV cache. Layers register under their full prefix. */
export interface AttentionLayerSpec {
  readonly layerName: string;
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly slidingWindow: number | null;
}

/** What the KV cache of a layer has to keep for a request: every token, or those that a window of this many tokens still covers. */
export type KvCacheSpec = { readonly numKvHeads: number; readonly headDim: number } & (
  | { readonly kind: 'full' }
  | { readonly kind: 'slidingWindow'; readonly slidingWindow: number }
);

/**
 * The whole configuration, plain data, handed to every module (vllm.config.VllmConfig).
 * `staticForwardContext` is where attention layers register themselves by full prefix.
 */
export interface VllmConfig {
  readonly model: ModelConfig;
  readonly cache: CacheConfig;
  readonly scheduler: SchedulerConfig;
  readonly parallel: ParallelConfig;
  readonly device: DeviceConfig;
  readonly load: LoadConfig;
  /** Filled by the quantization registry from config.json's quantization_config; null when the checkpoint is not quantized. */
  readonly quantization: unknown;
  readonly staticForwardContext: Map<string, AttentionLayerSpec>;
  /** Seed of the engine: unseeded requests draw theirs from it. */
  readonly seed: number;
}
