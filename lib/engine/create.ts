import type { EngineArgs } from '../config/options';
import type { VllmConfig } from '../config/vllm';
import { loadTokenizerIfPresent, type Tokenizer } from '../tokenizer/tokenizer';
import type { KvasirError } from '../utils/errors';
import type { EngineCoreClient } from './core-client';
import type { EngineParts } from './engine-base';
import type { EngineCoreListener, ExecutorFactory, ExecutorHooks, LoadProgress } from './engine-core';
import { configOf } from './engine-config';
import { serveAndExit } from './serve-rank';
import { OutputProcessor } from './output-processor';

export interface CreateOptions {
  /** Called while the model loads; `loaded` and `total` count the unit of `stage`. */
  readonly onProgress?: (progress: LoadProgress) => void;
  /** Gives up loading: create() rejects with signal.reason, and what is loaded is freed. */
  readonly signal?: AbortSignal;
  /**
   * Absolute paths of modules that threads and processes of the engine load first: they register a program's own models, when loaded or
   * in an exported `register()`. AsyncLLM has a thread, and with tensorParallelSize every engine has processes.
   */
  readonly workerImports?: readonly string[];
}

/** Parts that tests put in place of the real ones; not part of the API. */
export interface EngineInternals {
  readonly config?: VllmConfig;
  readonly tokenizer?: Tokenizer | null;
  readonly createExecutor?: ExecutorFactory;
  /** For AsyncLLM, whose worker_thread cannot be given a function: a module that exports createExecutor. */
  readonly executorModule?: string;
}

export type StartCore = (config: VllmConfig, hooks: ExecutorHooks, listener: EngineCoreListener) => Promise<EngineCoreClient>;

/** Resolves the options, loads the tokenizer and starts the engine core; frees what was started when another part fails. */
export async function createEngineParts(
  args: EngineArgs,
  options: CreateOptions,
  internals: EngineInternals,
  startCore: StartCore,
): Promise<EngineParts> {
  const { onProgress, signal } = options;
  signal?.throwIfAborted();
  const config = internals.config ?? (await configOf(args, options.workerImports));
  if (config.parallel.tpRank > 0) return serveAndExit(config);
  const tokenizer = internals.tokenizer !== undefined ? internals.tokenizer : await loadTokenizerIfPresent(config.model.tokenizerPath);
  signal?.throwIfAborted();
  const outputs = new OutputProcessor(tokenizer);
  const health: { dead: KvasirError | null } = { dead: null };
  let core: EngineCoreClient | null = null;
  const listener: EngineCoreListener = {
    onOutputs: (batch) => abort(outputs.process(batch)),
    onRequestFailed: (requestId, error) => abort(outputs.failCoreRequest(requestId, error)),
    onDead: (error) => {
      health.dead = error;
      outputs.failAll(error);
    },
  };
  const abort = (requestIds: readonly string[]): void => {
    if (requestIds.length > 0) core?.abortRequests(requestIds);
  };
  core = await abortable(startCore(config, { onProgress: (progress) => onProgress?.(progress) }, listener), signal);
  return { config, tokenizer, core, outputs, health };
}

/** Rejects as soon as the signal fires; the core, which cannot be stopped half loaded, is then closed when it is up. */
function abortable(starting: Promise<EngineCoreClient>, signal: AbortSignal | undefined): Promise<EngineCoreClient> {
  if (signal === undefined) return starting;
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(signal.reason);
    signal.addEventListener('abort', onAbort, { once: true });
    const settle = (): void => signal.removeEventListener('abort', onAbort);
    starting.then(
      (core) => {
        settle();
        // Nobody is left to hear of a failing close: the caller has been given the signal's reason.
        if (signal.aborted) core.close().catch(() => undefined);
        else resolve(core);
      },
      (error: unknown) => {
        settle();
        reject(error);
      },
    );
  });
}
