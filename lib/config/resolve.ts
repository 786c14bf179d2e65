import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';

import { KvasirError } from '../utils/errors';
import { resolveCacheDir } from './cache-dir';
import { cpuCount } from './cpu-count';
import { eosTokenIds, generationDefaults } from './generation-config';
import { type HfModelFields, parseHfConfig } from './hf-config';
import { type RawConfig, readHfString } from './hf-fields';
import { readConfigFile, readOptionalConfigFile } from './json-file';
import type { ModelConfig } from './model';
import type { EngineArgs } from './options';
import { isGiven, validateEngineArgs, type ValidatedEngineArgs } from './validate-args';
import { resolveParallel, type RankOfLauncher } from './parallel';
import type { AttentionLayerSpec, ComputeDType, DeviceType, SchedulerConfig, VllmConfig } from './vllm';

/** As vLLM: what a model gets whose config.json states no limit (ALiBi). */
const DEFAULT_MAX_MODEL_LEN = 2048;

/** What this machine and build offer besides the CPU; the caller asks the addon. */
export interface Platform {
  readonly cudaDevices: number;
  /** Why there are none. */
  readonly cudaProblem: string;
}

/** A GPU needs larger steps to be busy with prompts (vLLM's default on an H100). */
const CUDA_BATCHED_TOKENS = 8192;

const CPU_ONLY: Platform = { cudaDevices: 0, cudaProblem: 'this build has no CUDA backend' };

/**
 * Validates engine options, reads the model's config files, and derives everything that has no default of its own.
 * @throws KvasirError ERR_KVASIR_CONFIG (an option), ERR_KVASIR_MODEL_NOT_FOUND (a missing path), ERR_KVASIR_MODEL_CONFIG
 * (config.json or generation_config.json), ERR_KVASIR_UNSUPPORTED (a device or parallelism this build lacks), ERR_KVASIR_LAUNCH
 * (a launcher's ranks that do not fit the options).
 * @param launched what a launcher of ranks said of this process; null: nothing
 */
export async function resolveVllmConfig(args: EngineArgs, platform: Platform = CPU_ONLY, launched: RankOfLauncher | null = null): Promise<VllmConfig> {
  const options = validateEngineArgs(args);
  const device = resolveDevice(options, platform);
  const files = await locateModel(options);
  const hf = parseHfConfig(await readConfigFile(files.configFile));
  const generation = files.directory === null ? null : await readOptionalConfigFile(path.join(files.directory, 'generation_config.json'));
  const maxModelLen = resolveMaxModelLen(options, hf);
  const { torchDtype: _torchDtype, maxPositions: _maxPositions, quantization, ...fields } = hf;
  const model: ModelConfig = {
    ...fields,
    modelPath: files.modelPath,
    tokenizerPath: path.resolve(options.tokenizer ?? path.dirname(files.configFile)),
    dtype: resolveDtype(options, hf),
    maxModelLen,
    eosTokenIds: eosTokenIds(generation, hf.hfConfig, hf.vocabSize),
    generationDefaults: generationDefaults(generation),
    maxLogprobs: options.maxLogprobs,
    enforceEager: options.enforceEager,
  };
  const parallel = resolveParallel(options, model, launched);
  return {
    model,
    cache: {
      blockSize: options.blockSize,
      numBlocks: options.numKvBlocks,
      kvCacheDtype: options.kvCacheDtype === 'auto' ? 'auto' : 'fp8',
      kvCacheBytes: options.kvCacheBytes,
      gpuMemoryUtilization: options.gpuMemoryUtilization,
      enablePrefixCaching: options.enablePrefixCaching,
      hybridKvCacheManager: options.hybridKvCacheManager,
    },
    scheduler: resolveScheduler(args, options, maxModelLen, device),
    parallel,
    device: {
      device,
      numThreads: options.numThreads ?? Math.max(1, Math.floor(availableCores() / (parallel.launch?.localSize ?? 1))),
      batchInvariant: options.batchInvariant,
      cacheDir: resolveCacheDir(options.cacheDir, { env: process.env, homedir: os.homedir }),
    },
    load: { loadFormat: options.loadFormat },
    quantization: resolveQuantization(options, quantization),
    staticForwardContext: newStaticForwardContext(),
    seed: options.seed,
  };
}

/** Where the attention layers of one loaded model register themselves; every load needs its own. */
export function newStaticForwardContext(): Map<string, AttentionLayerSpec> {
  return new Map();
}

/** A deep copy with an empty forward context: what may be posted to a worker_thread and loaded there once more. */
export function cloneForWorker(config: VllmConfig): VllmConfig {
  return { ...structuredClone({ ...config, staticForwardContext: null }), staticForwardContext: newStaticForwardContext() };
}

function resolveDevice(options: ValidatedEngineArgs, { cudaDevices, cudaProblem }: Platform): DeviceType {
  if (options.device === 'cpu') return 'cpu';
  if (cudaDevices > 0) return 'cuda';
  if (options.device === 'auto') return 'cpu';
  throw new KvasirError('ERR_KVASIR_UNSUPPORTED', `option 'device': expected auto or cpu, received cuda: ${cudaProblem}`);
}

interface ModelFiles {
  readonly modelPath: string;
  readonly configFile: string;
  /** Null for a lone config.json. */
  readonly directory: string | null;
}

async function locateModel(options: ValidatedEngineArgs): Promise<ModelFiles> {
  const modelPath = path.resolve(options.model);
  const stat = await statOrNull(modelPath);
  if (stat === null) {
    throw new KvasirError('ERR_KVASIR_MODEL_NOT_FOUND', `expected a model directory on this machine, received ${modelPath}, which does not exist`);
  }
  if (stat.isDirectory()) return { modelPath, configFile: path.join(modelPath, 'config.json'), directory: modelPath };
  if (path.extname(modelPath) !== '.json') {
    throw new KvasirError('ERR_KVASIR_MODEL_CONFIG', `expected a model directory or a config.json, received the file ${modelPath}`);
  }
  if (options.loadFormat !== 'dummy') {
    throw new KvasirError(
      'ERR_KVASIR_CONFIG',
      `option 'model': a lone config.json has no weights: expected a directory or loadFormat 'dummy', received ${modelPath} with loadFormat '${options.loadFormat}'`,
    );
  }
  return { modelPath, configFile: modelPath, directory: null };
}

async function statOrNull(file: string): Promise<fs.Stats | null> {
  try {
    return await fs.promises.stat(file);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === 'ENOENT' || code === 'ENOTDIR') return null;
    throw new KvasirError('ERR_KVASIR_MODEL_NOT_FOUND', `expected a readable model path, received ${file}: ${code ?? String(error)}`, { cause: error });
  }
}

/** torch_dtype unless the caller chose; float32 stays float32. */
function resolveDtype(options: ValidatedEngineArgs, hf: HfModelFields): ComputeDType {
  if (options.dtype !== 'auto') return options.dtype;
  if (hf.torchDtype !== null) return hf.torchDtype;
  const stated = readHfString(hf.hfConfig, 'torch_dtype') ?? readHfString(hf.hfConfig, 'dtype');
  if (stated === null) return 'float32';
  throw new KvasirError(
    'ERR_KVASIR_MODEL_CONFIG',
    `config.json: torch_dtype: expected float32, float16 or bfloat16, received ${JSON.stringify(stated)}; set the option dtype to choose one`,
  );
}

/** The checkpoint's own quantization; a given method must be the same, except that fp8 can be made of full-precision weights. */
function resolveQuantization({ quantization: asked }: ValidatedEngineArgs, ofCheckpoint: RawConfig | null): RawConfig | null {
  if (asked === 'auto') return ofCheckpoint;
  if (ofCheckpoint !== null) {
    if (ofCheckpoint.quant_method === asked) return ofCheckpoint;
    const received = `option 'quantization': expected auto or the quant_method of config.json, ${JSON.stringify(ofCheckpoint.quant_method)}; received ${asked}`;
    throw new KvasirError('ERR_KVASIR_CONFIG', received);
  }
  if (asked === 'fp8') return { quant_method: 'fp8', is_checkpoint_fp8_serialized: false };
  throw new KvasirError('ERR_KVASIR_CONFIG', `option 'quantization': expected auto or fp8 for a model that is not quantized, received ${asked}`);
}

function resolveMaxModelLen(options: ValidatedEngineArgs, hf: HfModelFields): number {
  const asked = options.maxModelLen;
  if (asked === null) return hf.maxPositions ?? DEFAULT_MAX_MODEL_LEN;
  if (hf.maxPositions === null || asked <= hf.maxPositions) return asked;
  throw new KvasirError('ERR_KVASIR_CONFIG', `option 'maxModelLen': expected at most ${hf.maxPositions} (config.json of the model), received ${asked}`);
}

/**
 * The limits that bind token budget, requests and length together. Only values that the caller gave can be in conflict:
 * a default gives way to a given value, as in vLLM.
 */
function resolveScheduler(args: EngineArgs, options: ValidatedEngineArgs, maxModelLen: number, device: DeviceType): SchedulerConfig {
  const { enableChunkedPrefill } = options;
  const asyncScheduling = isGiven(args, 'asyncScheduling') ? options.asyncScheduling : device === 'cuda';
  let { maxNumSeqs, maxNumBatchedTokens } = options;
  if (!isGiven(args, 'maxNumBatchedTokens')) {
    if (device === 'cuda') maxNumBatchedTokens = CUDA_BATCHED_TOKENS;
    maxNumBatchedTokens = Math.max(maxNumBatchedTokens, maxNumSeqs, enableChunkedPrefill ? 1 : maxModelLen);
  }
  if (!isGiven(args, 'maxNumSeqs')) maxNumSeqs = Math.min(maxNumSeqs, maxNumBatchedTokens);
  if (maxNumBatchedTokens < maxNumSeqs) {
    throw new KvasirError('ERR_KVASIR_CONFIG', `option 'maxNumBatchedTokens': expected at least maxNumSeqs (${maxNumSeqs}), received ${maxNumBatchedTokens}`);
  }
  if (!enableChunkedPrefill && maxNumBatchedTokens < maxModelLen) {
    throw new KvasirError(
      'ERR_KVASIR_CONFIG',
      `option 'maxNumBatchedTokens': without chunked prefill expected at least maxModelLen (${maxModelLen}), received ${maxNumBatchedTokens}`,
    );
  }
  return { maxNumBatchedTokens, maxNumSeqs, enableChunkedPrefill, policy: options.schedulingPolicy, asyncScheduling };
}

function availableCores(): number {
  return cpuCount({
    availableParallelism: () => os.availableParallelism(),
    readText: (file) => {
      try {
        return fs.readFileSync(file, 'utf8');
      } catch {
        return null; // absent on this system, which is an answer here
      }
    },
  });
}
