import type { ChatMessage } from '../chat/messages';
import type { EngineArgs } from '../config/options';
import type { SamplingParams } from '../sampling/params';
import { KvasirError } from '../utils/errors';
import { InprocCoreClient } from './core-client';
import { createEngineParts, type CreateOptions, type EngineInternals } from './create';
import { defaultExecutorFactory } from './default-executor';
import { checkOptions } from './engine-config';
import { EngineBase, type ChatOptions, type RequestOptions } from './engine-base';
import type { ProcessedInput } from './input-processor';
import type { PromptInput, RequestOutput } from './outputs';
import type { RequestState } from './request-state';

export type LLMOptions = EngineArgs & CreateOptions;

export interface GenerateOptions extends RequestOptions {
  /** Called each time a request finishes; `outputTokens` counts those of all finished requests. */
  readonly onProgress?: (finished: number, total: number, outputTokens: number) => void;
}

/** Offline inference in the caller's thread (vllm.LLM). Between two steps of the model the event loop runs. */
export class LLM extends EngineBase {
  /**
   * Loads a model.
   * Errors: ERR_KVASIR_CONFIG, ERR_KVASIR_MODEL_NOT_FOUND, ERR_KVASIR_MODEL_CONFIG, ERR_KVASIR_UNSUPPORTED_MODEL,
   * ERR_KVASIR_CHECKPOINT, ERR_KVASIR_WEIGHTS, ERR_KVASIR_TOKENIZER, ERR_KVASIR_OUT_OF_MEMORY, and with tensorParallelSize ERR_KVASIR_LAUNCH
   * and ERR_KVASIR_RANK.
   *
   * In a process that a launcher (mpirun, srun, torchrun, a LeaderWorkerSet) made a rank other than 0, this serves the rank until rank 0
   * closes its engine, and then ends the process: only rank 0 runs the rest of the program. See {@link serveRank}.
   * @param internals test doubles; not part of the API
   */
  static async create(options: LLMOptions, internals: EngineInternals = {}): Promise<LLM> {
    const { onProgress, signal, workerImports, ...args } = checkOptions(options);
    const factory = internals.createExecutor ?? defaultExecutorFactory;
    const parts = await createEngineParts(args, { onProgress, signal, workerImports }, internals, (config, hooks, listener) =>
      InprocCoreClient.create(config, factory, hooks, listener),
    );
    return new LLM(parts);
  }

  /**
   * Generates for all prompts, batched by the scheduler; outputs are in the order of the prompts. One SamplingParams applies to all, an
   * array has one per prompt, none means those of {@link getDefaultSamplingParams}.
   * All prompts are checked before any is queued.
   * Errors: ERR_KVASIR_PROMPT, ERR_KVASIR_PROMPT_TOO_LONG, ERR_KVASIR_PARAMS, ERR_KVASIR_UNSUPPORTED (the message names the prompt's index),
   * ERR_KVASIR_CLOSED, ERR_KVASIR_ENGINE_DEAD, and signal.reason. NaN in one request's logits is no error of the call: its output has
   * finishReason 'error'.
   */
  async generate(
    prompts: PromptInput | readonly PromptInput[],
    params?: SamplingParams | readonly SamplingParams[] | null,
    options: GenerateOptions = {},
  ): Promise<RequestOutput[]> {
    this.checkUsable();
    const list: readonly PromptInput[] = Array.isArray(prompts) ? prompts : [prompts as PromptInput];
    const inputs = list.map((prompt, i) => atIndex(i, list.length, () => this.process(prompt, paramsAt(params, i, list.length), options.priority)));
    return this.runAll(inputs, options);
  }

  /** {@link generate} for conversations, rendered with the model's chat template. */
  async chat(
    messages: readonly ChatMessage[] | readonly (readonly ChatMessage[])[],
    params?: SamplingParams | readonly SamplingParams[] | null,
    options: GenerateOptions & ChatOptions = {},
  ): Promise<RequestOutput[]> {
    this.checkUsable();
    const list = (Array.isArray(messages) && Array.isArray(messages[0]) ? messages : [messages]) as readonly (readonly ChatMessage[])[];
    const inputs: ProcessedInput[] = [];
    for (const [i, conversation] of list.entries()) {
      inputs.push(await atIndex(i, list.length, () => this.processChat(conversation, paramsAt(params, i, list.length), options)));
    }
    return this.runAll(inputs, options);
  }

  private async runAll(inputs: readonly ProcessedInput[], options: GenerateOptions): Promise<RequestOutput[]> {
    const submissions = inputs.map((input) => ({ input: { ...input, params: { ...input.params, outputKind: 'final' as const } } }));
    const requests = this.submit(submissions, options.signal);
    let finished = 0;
    let outputTokens = 0;
    const waitFor = async (request: RequestState): Promise<RequestOutput> => {
      await request.ready();
      outputTokens += request.numOutputTokens;
      finished++;
      options.onProgress?.(finished, requests.length, outputTokens);
      return request.takeOutput();
    };
    try {
      return await Promise.all(requests.map(waitFor));
    } catch (error) {
      this.cancel(requests);
      throw error;
    }
  }
}

function paramsAt(params: SamplingParams | readonly SamplingParams[] | null | undefined, index: number, count: number): SamplingParams | null | undefined {
  if (!Array.isArray(params)) return params as SamplingParams | null | undefined;
  if (params.length !== count) {
    throw new KvasirError('ERR_KVASIR_PARAMS', `Sampling parameters: expected one object, or an array of ${count} (one per prompt), received an array of ${params.length}`);
  }
  return params[index] as SamplingParams;
}

/** Runs the check of one prompt; of several, an error names which. */
function atIndex<T>(index: number, count: number, check: () => T): T {
  const named = (error: unknown): unknown =>
    count > 1 && error instanceof KvasirError ? new KvasirError(error.code, `prompts[${index}]: ${error.message}`, { cause: error }) : error;
  try {
    const result = check();
    return result instanceof Promise ? (result.catch((error: unknown) => Promise.reject(named(error))) as T) : result;
  } catch (error) {
    throw named(error);
  }
}
