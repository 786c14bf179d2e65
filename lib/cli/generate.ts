import type { LLM, RequestOutput } from '../index';
import type { SamplingParams } from '../sampling/params';
import { KvasirError } from '../utils/errors';
import { engineArgs } from './engine-options';
import { readInputFile, type InputPrompt, type InputRequest } from './input';
import { interruptible } from './interrupt';
import { formatNumber, write, type CliIo } from './io';
import { openModel } from './open-model';
import { createProgress } from './progress';
import { samplingParams } from './sampling-options';

/** `kvasir generate`: one prompt or a file of them, as text or as JSON. */
export async function generate(model: string, given: Readonly<Record<string, unknown>>, io: CliIo): Promise<void> {
  // Read first: a bad line should not cost the time of loading a model.
  const requests = given.input === undefined ? [{ prompt: { prompt: String(given.prompt) }, params: {} }] : await readInputFile(String(given.input));
  await interruptible(async (signal) => {
    const llm = await openModel(engineArgs(model, given, ['seed']), given, signal, io);
    try {
      const defaults = samplingParams(given, llm.getDefaultSamplingParams());
      const params = requests.map((request) => ({ ...defaults, ...request.params }));
      if (given.json === true) await printJson(llm, requests, params, signal, io);
      else if (requests.length === 1 && (params[0]?.n ?? 1) === 1) await streamText(llm, requests[0]!.prompt, params[0]!, signal, io);
      else await printTexts(llm, requests, params, signal, io);
    } finally {
      await llm.close();
    }
  });
}

async function streamText(llm: LLM, prompt: InputPrompt, params: SamplingParams, signal: AbortSignal, io: CliIo): Promise<void> {
  for await (const output of llm.stream(prompt, { ...params, outputKind: 'delta' }, { signal })) {
    await write(io.stdout, output.outputs[0]?.text ?? '');
    throwFirstError([output]);
  }
  await write(io.stdout, '\n');
}

async function generateAll(llm: LLM, requests: readonly InputRequest[], params: SamplingParams[], signal: AbortSignal, io: CliIo): Promise<RequestOutput[]> {
  const progress = createProgress(io);
  const start = performance.now();
  try {
    return await llm.generate(requests.map((request) => request.prompt), params.map((one) => ({ ...one, outputKind: 'final' as const })), {
      signal,
      onProgress: (finished, total, outputTokens) => {
        const seconds = (performance.now() - start) / 1000;
        progress.update('requests', finished, total, `${formatNumber(outputTokens / seconds)} tokens/s`);
      },
    });
  } finally {
    progress.stop();
  }
}

/** A request that failed by itself (NaN logits) leaves the others alone; the command reports it once all are printed. */
function throwFirstError(outputs: readonly RequestOutput[]): void {
  for (const [index, output] of outputs.entries()) {
    const error = output.outputs.find((completion) => completion.error !== null)?.error;
    if (error) throw new KvasirError(error.code, `request ${index}: ${error.message}`);
  }
}

async function printTexts(llm: LLM, requests: readonly InputRequest[], params: SamplingParams[], signal: AbortSignal, io: CliIo): Promise<void> {
  const outputs = await generateAll(llm, requests, params, signal, io);
  for (const output of outputs) {
    for (const completion of output.outputs) await write(io.stdout, `${completion.text}\n`);
  }
  throwFirstError(outputs);
}

async function printJson(llm: LLM, requests: readonly InputRequest[], params: SamplingParams[], signal: AbortSignal, io: CliIo): Promise<void> {
  const outputs = await generateAll(llm, requests, params, signal, io);
  for (const [index, output] of outputs.entries()) await write(io.stdout, `${JSON.stringify(jsonOf(index, output))}\n`);
  throwFirstError(outputs);
}

/** What `--json` prints for a request. */
function jsonOf(index: number, output: RequestOutput): object {
  return {
    index,
    prompt: output.prompt,
    promptTokenIds: output.promptTokenIds,
    outputs: output.outputs.map((completion) => ({
      index: completion.index,
      text: completion.text,
      tokenIds: completion.tokenIds,
      finishReason: completion.finishReason,
      stopReason: completion.stopReason,
      cumulativeLogprob: completion.cumulativeLogprob,
      logprobs: completion.logprobs,
    })),
    numCachedTokens: output.numCachedTokens,
  };
}
