import { loadBinding } from '../binding/load';
import type { LLM } from '../index';
import type { SamplingParams } from '../sampling/params';
import { engineArgs } from './engine-options';
import { interruptible } from './interrupt';
import { formatBytes, formatNumber, write, type CliIo } from './io';
import { openModel } from './open-model';
import { createProgress } from './progress';

interface BenchOptions extends Record<string, unknown> {
  inputLen: number;
  outputLen: number;
  json?: boolean;
  seed?: number;
}

/** Runs `work` on a loaded model. Prefix caching is off unless asked for: repeated runs would otherwise measure the cache. */
async function withModel<T>(model: string, given: BenchOptions, io: CliIo, work: (llm: LLM, loadSeconds: number, signal: AbortSignal) => Promise<T>): Promise<T> {
  return interruptible(async (signal) => {
    const start = performance.now();
    const llm = await openModel({ enablePrefixCaching: false, ...engineArgs(model, given) }, given, signal, io);
    try {
      return await work(llm, secondsSince(start), signal);
    } finally {
      await llm.close();
    }
  });
}

/** `kvasir bench latency`: the median over runs of one batch, the prompt and the tokens after it apart. */
export async function benchLatency(
  model: string,
  given: BenchOptions & { batchSize: number; numIters: number; numItersWarmup: number },
  io: CliIo,
): Promise<void> {
  const result = await withModel(model, given, io, async (llm, loadSeconds, signal) => {
    const prompts = randomPrompts(given.batchSize, given.inputLen, llm.config.model.vocabSize, given.seed);
    const timeOf = async (tokens: number): Promise<number> => {
      const start = performance.now();
      await llm.generate(prompts, fixedLength(tokens), { signal });
      return secondsSince(start);
    };
    const prefills: number[] = [];
    const totals: number[] = [];
    const ceilings: Ceilings[] = [];
    const progress = createProgress(io);
    const runs = given.numItersWarmup + given.numIters;
    for (let run = 0; run < runs; run += 1) {
      progress.update('runs', run, runs);
      const ceiling = await machineCeilings(llm);
      const [prefill, total] = [await timeOf(1), await timeOf(given.outputLen)];
      if (run < given.numItersWarmup) continue;
      prefills.push(prefill);
      totals.push(total);
      if (ceiling) ceilings.push(ceiling);
    }
    progress.stop();
    return { ...latencyFigures(given, prefills, totals), ...commonFigures(llm, loadSeconds), ...ceilingFigures(llm, given, prefills, totals, ceilings) };
  });
  await printResult('latency', model, given, result, io);
}

/**
 * Prefill is the time of the same batch with one output token; decoding is the rest. Rates count the whole batch. Where other work made
 * the run with one token take as long as the others, decoding took no time that could be told, and its rate is null.
 */
export function latencyFigures(given: { batchSize: number; inputLen: number; outputLen: number }, prefills: readonly number[], totals: readonly number[]) {
  const prefillSeconds = median(prefills);
  const totalSeconds = median(totals);
  const decodeSeconds = Math.max(0, totalSeconds - prefillSeconds);
  const decodedTokens = given.batchSize * (given.outputLen - 1);
  return {
    batchSize: given.batchSize,
    numIters: totals.length,
    prefillSeconds,
    prefillTokensPerSecond: (given.batchSize * given.inputLen) / prefillSeconds,
    totalSeconds,
    decodeSeconds,
    decodeTokensPerSecond: decodeSeconds > 0 ? decodedTokens / decodeSeconds : null,
    secondsPerDecodeStep: decodeSeconds / (given.outputLen - 1),
  };
}

/** `kvasir bench throughput`: all requests are there from the start, as in a batch job. */
export async function benchThroughput(model: string, given: BenchOptions & { numPrompts: number }, io: CliIo): Promise<void> {
  const result = await withModel(model, given, io, async (llm, loadSeconds, signal) => {
    const vocabSize = llm.config.model.vocabSize;
    await llm.generate(randomPrompts(1, given.inputLen, vocabSize, given.seed), fixedLength(2), { signal }); // warm-up
    const prompts = randomPrompts(given.numPrompts, given.inputLen, vocabSize, given.seed);
    const progress = createProgress(io);
    const start = performance.now();
    const outputs = await llm
      .generate(prompts, fixedLength(given.outputLen), {
        signal,
        onProgress: (finished, total, tokens) => progress.update('requests', finished, total, `${formatNumber(tokens / secondsSince(start))} tokens/s`),
      })
      .finally(() => progress.stop());
    const elapsedSeconds = secondsSince(start);
    const outputTokens = outputs.reduce((sum, output) => sum + (output.outputs[0]?.tokenIds.length ?? 0), 0);
    return {
      numPrompts: given.numPrompts,
      elapsedSeconds,
      requestsPerSecond: given.numPrompts / elapsedSeconds,
      outputTokensPerSecond: outputTokens / elapsedSeconds,
      totalTokensPerSecond: (outputTokens + given.numPrompts * given.inputLen) / elapsedSeconds,
      ...commonFigures(llm, loadSeconds),
    };
  });
  await printResult('throughput', model, given, result, io);
}

function commonFigures(llm: LLM, loadSeconds: number) {
  const { model, device } = llm.config;
  return {
    dtype: model.dtype,
    device: device.device,
    numThreads: device.numThreads,
    loadSeconds,
    // Weights, activations and KV cache: everything the addon holds.
    nativeBytes: loadBinding().liveStorages().bytes,
    peakRssBytes: process.resourceUsage().maxRSS * 1024,
  };
}

/** What the machine can do with the engine's threads. */
interface Ceilings {
  readonly readBytesPerSecond: number;
  readonly flops: number;
}

/** Measured before every run, because other work on the machine comes and goes; null on devices that have their own benchmarks. */
async function machineCeilings(llm: LLM): Promise<Ceilings | null> {
  const { device, numThreads } = llm.config.device;
  if (device !== 'cpu') return null;
  const binding = loadBinding();
  const stream = binding.createStream(0, numThreads);
  try {
    const [readBytesPerSecond, flops] = new Float64Array(await binding.probeMachine(stream, 2 ** 27));
    return { readBytesPerSecond: readBytesPerSecond!, flops: flops! };
  } finally {
    binding.destroyStream(stream);
  }
}

/** The share of the machine's ceilings that was reached, each run beside the ceilings measured just before it. */
function ceilingFigures(llm: LLM, given: { batchSize: number; inputLen: number; outputLen: number }, prefills: readonly number[], totals: readonly number[], ceilings: readonly Ceilings[]) {
  const { memory } = llm.info;
  if (!memory || ceilings.length === 0) return {};
  const { model } = llm.config;
  const embeddingElements = model.vocabSize * model.hiddenSize;
  const embeddingBytes = embeddingElements * (model.dtype === 'float32' ? 4 : 2);
  // A decode step reads every weight but an untied embedding table, of which it takes single rows.
  const decodeBytes = memory.weights - (model.tieWordEmbeddings ? 0 : embeddingBytes);
  // A prompt token multiplies by every weight but the embedding and the LM head, which only the last token needs.
  const prefillFlops = (2 * (memory.weights - embeddingBytes * (model.tieWordEmbeddings ? 1 : 2))) / (embeddingBytes / embeddingElements);
  // The bytes of quantized weights do not tell how many there are, and their products may have another peak than the one measured.
  const shareOfPeak = prefills.map((seconds, i) => (prefillFlops * given.batchSize * given.inputLen) / seconds / ceilings[i]!.flops);
  const stepSeconds = totals.map((total, i) => (total - prefills[i]!) / (given.outputLen - 1));
  return {
    weightBytes: memory.weights,
    kvCacheBytes: memory.kvCache,
    machineReadGBs: median(ceilings.map((c) => c.readBytesPerSecond)) / 1e9,
    machinePeakGflops: median(ceilings.map((c) => c.flops)) / 1e9,
    decodeShareOfReadBandwidth: median(stepSeconds.map((seconds, i) => decodeBytes / seconds / ceilings[i]!.readBytesPerSecond)),
    prefillShareOfPeak: llm.config.quantization === null ? median(shareOfPeak) : null,
  };
}

async function printResult(benchmark: string, model: string, given: BenchOptions, figures: object, io: CliIo): Promise<void> {
  const result = { benchmark, model, inputLen: given.inputLen, outputLen: given.outputLen, ...figures };
  if (given.json === true) {
    await write(io.stdout, `${JSON.stringify(result)}\n`);
    return;
  }
  for (const [name, value] of Object.entries(result)) await write(io.stdout, `${name.padEnd(24)}${show(name, value)}\n`);
}

function show(name: string, value: unknown): string {
  if (typeof value !== 'number') return String(value);
  return name.endsWith('Bytes') ? formatBytes(value) : Number.isInteger(value) ? String(value) : formatNumber(value);
}

/** Exactly `tokens` tokens, greedily, whatever the model would like; no text is made of them. */
function fixedLength(tokens: number): SamplingParams {
  return { temperature: 0, maxTokens: tokens, ignoreEos: true, detokenize: false, outputKind: 'final' };
}

/** `count` prompts of `length` token ids, the same for the same seed. */
export function randomPrompts(count: number, length: number, vocabSize: number, seed = 0): { promptTokenIds: number[] }[] {
  // A linear congruential generator modulo 2^32 (Knuth, TAOCP 2, table 1 of 3.3.4); its high bits are random enough to pick ids.
  let state = (seed ^ 0x9e3779b9) >>> 0;
  const next = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * vocabSize);
  };
  return Array.from({ length: count }, () => ({ promptTokenIds: Array.from({ length }, next) }));
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

function secondsSince(start: number): number {
  return (performance.now() - start) / 1000;
}
