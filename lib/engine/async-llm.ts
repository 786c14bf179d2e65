import type { ChatMessage } from '../chat/messages';
import type { EngineArgs } from '../config/options';
import { cloneForWorker } from '../config/resolve';
import type { SamplingParams } from '../sampling/params';
import { createEngineParts, type CreateOptions, type EngineInternals } from './create';
import { checkImports, checkOptions } from './engine-config';
import { EngineBase, type ChatOptions, type StreamOptions } from './engine-base';
import type { PromptInput, RequestOutput } from './outputs';
import { WorkerCoreClient } from './worker-core-client';

export type AsyncLLMOptions = CreateOptions;

/**
 * Online inference (vllm.v1.engine.async_llm.AsyncLLM): the engine core runs in a worker_thread, so that neither steps of the model nor
 * the caller's event loop hold up the other. An idle engine does not keep the process alive.
 */
export class AsyncLLM extends EngineBase {
  /** Loads a model. Errors as LLM.create; those of the thread keep their code and message. */
  static async create(options: EngineArgs & AsyncLLMOptions, internals: EngineInternals = {}): Promise<AsyncLLM> {
    const { onProgress, signal, workerImports, ...args } = checkOptions(options);
    const imports = checkImports(workerImports);
    const executorModule = internals.executorModule ?? null;
    const parts = await createEngineParts(args, { onProgress, signal, workerImports }, internals, (config, hooks, listener) =>
      WorkerCoreClient.create({ config: cloneForWorker(config), imports, executorModule }, hooks, listener),
    );
    return new AsyncLLM(parts);
  }

  /** Generates for one prompt; see {@link EngineBase.stream}. */
  generate(prompt: PromptInput, params?: SamplingParams | null, options: StreamOptions = {}): AsyncGenerator<RequestOutput, void, undefined> {
    return this.stream(prompt, params, options);
  }

  /** Generates the next message of a conversation; see {@link EngineBase.streamChat}. */
  chat(
    messages: readonly ChatMessage[],
    params?: SamplingParams | null,
    options: StreamOptions & ChatOptions = {},
  ): AsyncGenerator<RequestOutput, void, undefined> {
    return this.streamChat(messages, params, options);
  }
}
