/**
 * The engine's options: one row each. Validation (validate-args.ts), command line flags and the reference in the
 * documentation follow from this table.
 */
import type { SchedulingPolicy } from './vllm';

/** What LLM.create and the command line accept (vllm.EngineArgs in camelCase). `null` and `undefined` mean "the default". */
export interface EngineArgs {
  /** Model directory, or the path of a lone config.json with `loadFormat: 'dummy'`. */
  model: string;
  tokenizer?: string | null;
  dtype?: 'auto' | 'float32' | 'bfloat16' | 'float16' | null;
  quantization?: 'auto' | 'fp8' | 'gptq' | 'awq' | 'compressed-tensors' | null;
  device?: 'auto' | 'cpu' | 'cuda' | null;
  maxModelLen?: number | null;
  maxNumSeqs?: number | null;
  maxNumBatchedTokens?: number | null;
  blockSize?: number | null;
  numKvBlocks?: number | null;
  kvCacheBytes?: number | null;
  kvCacheDtype?: 'auto' | 'fp8' | 'fp8_e4m3' | null;
  gpuMemoryUtilization?: number | null;
  enablePrefixCaching?: boolean | null;
  hybridKvCacheManager?: boolean | null;
  enableChunkedPrefill?: boolean | null;
  schedulingPolicy?: SchedulingPolicy | null;
  asyncScheduling?: boolean | null;
  tensorParallelSize?: number | null;
  tensorParallelSecretFile?: string | null;
  tensorParallelTimeout?: number | null;
  numThreads?: number | null;
  batchInvariant?: boolean | null;
  loadFormat?: 'auto' | 'safetensors' | 'dummy' | null;
  seed?: number | null;
  maxLogprobs?: number | null;
  enforceEager?: boolean | null;
  cacheDir?: string | null;
}

export type OptionName = keyof EngineArgs;
export type OptionGroup = 'model' | 'device' | 'scheduler' | 'cache' | 'parallel' | 'load';
export type OptionValue = string | number | boolean | null;

interface OptionBase {
  readonly group: OptionGroup;
  /** One sentence; the CLI and the documentation print it. */
  readonly help: string;
}

/** `default: null` means that the value is derived (help says how) or, with `required`, that there is none. */
export type OptionSpec =
  | (OptionBase & { readonly type: 'string'; readonly default: string | null; readonly required?: true })
  | (OptionBase & {
      readonly type: 'integer' | 'number';
      readonly default: number | null;
      readonly min: number;
      readonly max: number;
    })
  | (OptionBase & { readonly type: 'boolean'; readonly default: boolean })
  | (OptionBase & { readonly type: 'enum'; readonly default: string; readonly choices: readonly string[] });

export type EngineOption = OptionSpec & { readonly name: OptionName };

const MAX = Number.MAX_SAFE_INTEGER;

const TABLE: { readonly [K in OptionName]-?: OptionSpec } = {
  model: {
    type: 'string', default: null, required: true, group: 'model',
    help: 'Directory with config.json, safetensors and tokenizer.json; or the path of a lone config.json with --load-format dummy.',
  },
  tokenizer: {
    type: 'string', default: null, group: 'model',
    help: 'Directory with tokenizer.json (default: the model directory).',
  },
  dtype: {
    type: 'enum', default: 'auto', choices: ['auto', 'float32', 'bfloat16', 'float16'], group: 'model',
    help: "Type to compute in; auto takes torch_dtype of the model's config.json.",
  },
  quantization: {
    type: 'enum', default: 'auto', choices: ['auto', 'fp8', 'gptq', 'awq', 'compressed-tensors'], group: 'model',
    help: 'How the weights are quantized; auto takes what config.json says. fp8 also rounds an unquantized model while it is loaded.',
  },
  maxModelLen: {
    type: 'integer', default: null, min: 1, max: 2 ** 28, group: 'model',
    help: 'Longest sequence, prompt and output together, in tokens (default: what config.json states).',
  },
  maxLogprobs: {
    type: 'integer', default: 20, min: -1, max: 2 ** 20, group: 'model',
    help: 'Most log probabilities per position that a request may ask for; -1: as many as the vocabulary has.',
  },
  enforceEager: {
    type: 'boolean', default: false, group: 'model',
    help: 'Never capture device graphs.',
  },
  seed: {
    type: 'integer', default: 0, min: 0, max: MAX, group: 'model',
    help: 'Seed from which requests without a seed of their own draw theirs.',
  },
  device: {
    type: 'enum', default: 'auto', choices: ['auto', 'cpu', 'cuda'], group: 'device',
    help: 'Device to run on; auto takes the best that this build and machine have.',
  },
  numThreads: {
    type: 'integer', default: null, min: 1, max: 1024, group: 'device',
    help: 'CPU threads (default: the cores that this process may use, cgroup quota included).',
  },
  batchInvariant: {
    type: 'boolean', default: false, group: 'device',
    help: 'What a request generates does not depend on the other requests of its batch, bit for bit; on cuda it costs speed, on cpu it holds anyway.',
  },
  maxNumSeqs: {
    type: 'integer', default: 256, min: 1, max: 65536, group: 'scheduler',
    help: 'Most requests in one step.',
  },
  maxNumBatchedTokens: {
    type: 'integer', default: 2048, min: 1, max: 2 ** 24, group: 'scheduler',
    help: 'Token budget of one step; at least --max-num-seqs, and at least --max-model-len without chunked prefill (8192 on cuda).',
  },
  enableChunkedPrefill: {
    type: 'boolean', default: true, group: 'scheduler',
    help: 'Split long prompts over several steps.',
  },
  schedulingPolicy: {
    type: 'enum', default: 'fcfs', choices: ['fcfs', 'priority'], group: 'scheduler',
    help: 'Order of waiting requests: first come first served, or by priority (lower first).',
  },
  asyncScheduling: {
    type: 'boolean', default: false, group: 'scheduler',
    help: 'Plan and queue the next step while the device runs the current one (on by default on cuda).',
  },
  blockSize: {
    type: 'integer', default: 16, min: 16, max: 16, group: 'cache',
    help: 'Tokens per KV cache block; the kernels know 16.',
  },
  numKvBlocks: {
    type: 'integer', default: null, min: 2, max: 2 ** 31 - 1, group: 'cache',
    help: 'KV cache blocks, the null block included (default: as many as fit into --kv-cache-bytes, or on cuda into --gpu-memory-utilization).',
  },
  kvCacheBytes: {
    type: 'integer', default: null, min: 1, max: MAX, group: 'cache',
    help: 'Bytes for the KV cache (default on cpu: the least of 4 GiB, 25% of free memory, and what --max-num-seqs sequences of --max-model-len need).',
  },
  kvCacheDtype: {
    type: 'enum', default: 'auto', choices: ['auto', 'fp8', 'fp8_e4m3'], group: 'cache',
    help: 'Type of the KV cache; auto: float8_e4m3 when the checkpoint asks for it, else --dtype. fp8 (e4m3) halves its bytes or more, and costs accuracy.',
  },
  gpuMemoryUtilization: {
    type: 'number', default: 0.9, min: 0.01, max: 1, group: 'cache',
    help: "Share of a CUDA device's memory for weights, activations and KV cache together.",
  },
  enablePrefixCaching: {
    type: 'boolean', default: true, group: 'cache',
    help: 'Share KV blocks between requests whose prompts begin alike.',
  },
  hybridKvCacheManager: {
    type: 'boolean', default: true, group: 'cache',
    help: 'Layers with a sliding window give KV blocks back that lie before it; a block is then the memory of one group of layers, not of all.',
  },
  tensorParallelSize: {
    type: 'integer', default: 1, min: 1, max: 1024, group: 'parallel',
    help: 'Ranks that share the model, one process each. Under mpirun, srun, torchrun or a LeaderWorkerSet these are theirs; else they are started on this host.',
  },
  tensorParallelSecretFile: {
    type: 'string', default: null, group: 'parallel',
    help: 'File with a secret that all ranks show each other; needed when they are on several hosts.',
  },
  tensorParallelTimeout: {
    type: 'number', default: 300, min: 1, max: 86400, group: 'parallel',
    help: 'Seconds that ranks wait for each other at the start.',
  },
  loadFormat: {
    type: 'enum', default: 'auto', choices: ['auto', 'safetensors', 'dummy'], group: 'load',
    help: 'auto and safetensors read the checkpoint; dummy fills the weights with small seeded random values.',
  },
  cacheDir: {
    type: 'string', default: null, group: 'load',
    help: 'Folder for what is measured once and kept: on cuda, timings of matrix kernels (default: kvasir in XDG_CACHE_HOME or in ~/.cache); none: keep nothing.',
  },
};

/** Every engine option, in the order in which help lists them. */
export const ENGINE_OPTIONS: readonly EngineOption[] = (Object.keys(TABLE) as OptionName[]).map((name) => ({
  name,
  ...TABLE[name],
}));

/** The long command line flag of an option: maxModelLen -> --max-model-len. Booleans also have a `--no-` form. */
export function cliFlag(name: OptionName): string {
  return `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}
