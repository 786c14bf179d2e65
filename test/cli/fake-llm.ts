import { ERRORS, KvasirError } from '../../lib/utils/errors';

/** What the commands asked of the engine. */
export const calls: { created: Record<string, unknown>[]; prompts: unknown[]; params: Record<string, unknown>[]; chats: unknown[]; closed: number } = {
  created: [], prompts: [], params: [], chats: [], closed: 0,
};

export function resetCalls(): void {
  Object.assign(calls, { created: [], prompts: [], params: [], chats: [], closed: 0 });
}

function output(prompt: unknown, text: string, finished: boolean): object {
  const failed = JSON.stringify(prompt).includes('nan');
  return {
    requestId: '0', prompt: (prompt as { prompt?: string }).prompt ?? null, promptTokenIds: [1], promptLogprobs: null, finished, numCachedTokens: 0,
    outputs: [{
      index: 0, text, tokenIds: [2, 3], cumulativeLogprob: null, logprobs: null, finishReason: failed ? 'error' : 'length', stopReason: null,
      error: failed ? { code: 'ERR_KVASIR_NAN_LOGITS', message: 'NaN at position 3' } : null,
    }],
  };
}

/** Stands for the library in tests of the command line: no model, no addon. */
export class LLM {
  readonly config = { model: { vocabSize: 10, dtype: 'float32' }, device: { device: 'cpu', numThreads: 1 } };

  static async create({ onProgress, signal, ...args }: Record<string, unknown>): Promise<LLM> {
    (signal as AbortSignal).throwIfAborted();
    if (String(args.model).startsWith('missing')) throw new KvasirError('ERR_KVASIR_MODEL_NOT_FOUND', `${String(args.model)}: expected a directory,\n  received nothing`);
    calls.created.push(args);
    (onProgress as (progress: object) => void)({ stage: 'weights', loaded: 1, total: 1 });
    return new LLM();
  }

  getDefaultSamplingParams(): object {
    return { temperature: 0.8 };
  }

  async generate(prompts: unknown[], params: Record<string, unknown> | Record<string, unknown>[]): Promise<object[]> {
    calls.prompts.push(...prompts);
    calls.params.push(...(Array.isArray(params) ? params : [params]));
    return prompts.map((prompt, i) => output(prompt, `text ${i}`, true));
  }

  async *stream(prompt: unknown, params: Record<string, unknown>): AsyncGenerator<object> {
    calls.prompts.push(prompt);
    calls.params.push(params);
    yield output(prompt, 'once ', false);
    yield output(prompt, 'upon', true);
  }

  async *streamChat(messages: unknown[]): AsyncGenerator<object> {
    calls.chats.push(messages);
    yield output({}, `reply ${messages.length}`, true);
  }

  async close(): Promise<void> {
    calls.closed += 1;
  }
}

export { ERRORS, KvasirError };
