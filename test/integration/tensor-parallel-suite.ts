/** Several ranks of a tensor-parallel group in this process compute what one rank computes. */
import type { EngineArgs } from '../../lib/config/options';
import type { ComputeDType } from '../../lib/config/vllm';
import type { EngineInternals } from '../../lib/engine/create';
import { LLM } from '../../lib/index';
import { liveStorages } from '../../lib/tensor/device';
import { createLocalGroupExecutor } from '../../lib/worker/local-group-executor';
import { comparable, modelDir, readGolden } from '../models/golden-suite';
import { largestDifference, meanDifference } from '../quantization/fixtures/quantized-model';
import { ModelCopy } from './model-copy';
import { randomPrompt } from './workload';

export type Device = 'cpu' | 'cuda';

/** Models and the numbers of ranks that their heads and sizes allow; with four ranks, two KV heads (or one) are on several. */
export const MODELS: readonly (readonly [name: string, sizes: readonly number[]])[] = [
  ['stories260K', [2, 4]],
  ['stories260K-bf16-sharded', [2]],
  ['babyllama-tok105', [2, 4, 8]],
  ['kvasir-tales-5m', [2, 4]],
  ['babyllama-tok105-fp8', [2, 4, 8]],
  ['babyllama-tok105-awq-int4-g32', [2, 4]],
  ['babyllama-tok105-gptq-int4-g32', [2, 4]],
  ['tiny-random/gemma2', [2, 4]],
  ['tiny-random/gpt-neox', [2, 4]],
  ['tiny-random/gpt2', [2, 4]],
  ['tiny-random/llama-hd64-bf16', [2, 4]],
  ['tiny-random/llama-rope-llama3', [2, 4]],
  ['tiny-random/mistral-sliding-window', [2, 4]],
  ['tiny-random/mixtral', [2, 4]],
  ['tiny-random/opt', [2, 4]],
  ['tiny-random/phi3', [2, 4]],
  ['tiny-random/qwen2', [2, 4]],
  ['tiny-random/qwen3', [2, 4]],
  ['tiny-random/qwen3-hd128-bf16', [2, 4]],
  ['tiny-random/qwen3-moe', [2, 4]],
];

/** Models that every clone has. */
export const FIXTURES: readonly (readonly [name: string, sizes: readonly number[]])[] = [
  ['gpt-neox-sequential', [2]],
  ['opt-post-norm', [2, 4]],
];

/** With another number of heads than the reference had: compared with one rank only. */
export const OTHER_HEADS: readonly (readonly [name: string, field: string, heads: number, sizes: readonly number[]])[] = [
  ['bloom-tiny', 'n_head', 6, [2]], // slopes of a number of heads that is no power of two
  ['bloom-tiny', 'n_head', 4, [2, 4]],
  ['bloom-normed-residual', 'n_head', 6, [2]],
  ['gpt2-inverse-scale', 'n_head', 6, [2]],
];

export const ranks = (size: number): EngineInternals => ({ createExecutor: (config) => createLocalGroupExecutor(config, size) });

interface Work {
  readonly prompts: readonly (readonly number[])[];
  readonly maxTokens: number;
  /** Sequences whose log probabilities are compared, so that no tie decides how they go on. */
  readonly sequences: readonly (readonly number[])[];
}

interface Result {
  /** Greedy, after each prompt. */
  readonly tokens: readonly (readonly number[])[];
  /** Of each token of each sequence. */
  readonly logprobs: readonly number[];
}

/** Small steps, so that long prompts go in chunks beside the tokens of others. */
export const STEPS: Partial<EngineArgs> = { numThreads: 1, numKvBlocks: 256, maxNumBatchedTokens: 64, maxNumSeqs: 8 };

async function run(dir: string, size: number, { prompts, maxTokens, sequences }: Work, device: Device, dtype: ComputeDType = 'float32'): Promise<Result> {
  const llm = await LLM.create({ model: dir, dtype, device, ...STEPS }, size === 1 ? {} : ranks(size));
  try {
    const inputs = (all: Work['prompts']) => all.map((promptTokenIds) => ({ promptTokenIds }));
    const answers = await llm.generate(inputs(prompts), { temperature: 0, maxTokens, ignoreEos: true });
    const scored = await llm.generate(inputs(sequences), { temperature: 0, maxTokens: 1, promptLogprobs: 0 });
    return {
      tokens: answers.map(({ outputs }) => outputs[0]!.tokenIds),
      logprobs: scored.flatMap(({ promptLogprobs }) => promptLogprobs!.slice(1).map((entries) => entries![0]!.logprob)),
    };
  } finally {
    await llm.close();
    expect(liveStorages().count).toBe(0);
  }
}

export interface SuiteOptions {
  readonly device: Device;
  /** Largest difference of a log probability to that of one rank. */
  readonly tolerance: number;
}

/** A model of the golden suite: the reference's tokens, and one rank's log probabilities. */
export async function goldenRanks(name: string, sizes: readonly number[], { device, tolerance }: SuiteOptions): Promise<void> {
  const { greedy } = readGolden(name);
  const work = {
    prompts: greedy.map((row) => row.prompt_ids),
    maxTokens: Math.max(...greedy.map((row) => row.output_ids.length)),
    sequences: greedy.map((row) => [...row.prompt_ids, ...row.output_ids.slice(0, -1)]),
  };
  const one = await run(modelDir(name), 1, work, device);
  for (const size of sizes) {
    const group = await run(modelDir(name), size, work, device);
    const expected = greedy.map((row) => comparable(row, device === 'cpu'));
    expect(group.tokens.map((tokens, i) => tokens.slice(0, expected[i]!.length))).toEqual(expected);
    expect(largestDifference(group.logprobs, one.logprobs)).toBeLessThan(tolerance);
  }
}

/** In 16 bits, ranks round their parts of a sum (and their parts of 8-bit activations): they stay about as near to float32 as one rank does. */
export async function bfloat16Ranks(name: string, size: number, device: Device): Promise<void> {
  const sequences = readGolden(name).greedy.map((row) => [...row.prompt_ids, ...row.output_ids.slice(0, -1)]);
  const work = { prompts: [], maxTokens: 1, sequences };
  const exact = await run(modelDir(name), 1, work, device);
  const [one, group] = [await run(modelDir(name), 1, work, device, 'bfloat16'), await run(modelDir(name), size, work, device, 'bfloat16')];
  expect(group.logprobs.length).toBeGreaterThan(50);
  // On CUDA, ranks that share a GPU multiply by other kernels than one rank alone.
  if (device === 'cpu') expect(meanDifference(group.logprobs, one.logprobs)).toBeLessThan(0.02);
  const distance = (result: Result): number => meanDifference(result.logprobs, exact.logprobs);
  expect(distance(group)).toBeLessThan(Math.max(0.02, 1.5 * distance(one)));
}

/** A model without a reference: what one rank says. */
export async function sameAsOneRank(dir: string, sizes: readonly number[], vocabSize: number, { device, tolerance }: SuiteOptions): Promise<void> {
  const prompts = [3, 17, 30].map((length) => randomPrompt(length, length, vocabSize));
  const work = { prompts, maxTokens: 8, sequences: prompts };
  const one = await run(dir, 1, work, device);
  for (const size of sizes) {
    const group = await run(dir, size, work, device);
    expect(group.tokens).toEqual(one.tokens);
    expect(largestDifference(group.logprobs, one.logprobs)).toBeLessThan(tolerance);
  }
}

/** A fixture model with other entries in its config.json. */
export async function changedFixture(name: string, changes: Record<string, unknown>, work: (dir: string) => Promise<void>): Promise<void> {
  const copy = new ModelCopy(modelDir(name));
  try {
    copy.editJson('config.json', (config) => Object.assign(config, changes));
    await work(copy.dir);
  } finally {
    copy.remove();
  }
}
