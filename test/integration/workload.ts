import * as path from 'node:path';
import { LLM, type EngineArgs, type RequestOutput, type SamplingParams } from '../../lib/index';
import { liveStorages } from '../../lib/tensor/device';
import { hasShared, sharedPath } from '../fixtures/shared';

export interface TestModel {
  readonly name: string;
  readonly path: string;
  /** Not beside this clone: its tests skip by name. */
  readonly missing: boolean;
}

/** The example model, which every clone has. */
export const TALES: TestModel = {
  name: 'kvasir-tales-5m',
  path: path.resolve(__dirname, '../../examples/models/kvasir-tales-5m'),
  missing: false,
};

/** Grouped-query attention, head_dim 8, sizes that no vector width divides. */
export const STORIES: TestModel = { name: 'stories260K', path: sharedPath('models', 'stories260K'), missing: !hasShared };

/** The smallest trained model at hand. */
export const TINY: TestModel = STORIES.missing ? TALES : STORIES;

export interface Work {
  readonly promptTokenIds: readonly number[];
  readonly params: SamplingParams;
}

/** Small deterministic integers that look random: a multiplicative generator modulo 2^31 - 1. */
export function integers(seed: number): (below: number) => number {
  let state = (seed * 48271 + 11) % 2147483647;
  return (below) => {
    state = (state * 48271) % 2147483647;
    return state % below;
  };
}

export function randomPrompt(seed: number, length: number, vocabSize: number): number[] {
  const next = integers(seed + 1);
  return Array.from({ length }, () => 5 + next(vocabSize - 5));
}

/** Greedy, seeded sampling, and sampling with everything: one after the other over a batch. */
function samplingOf(index: number, vocabSize: number): SamplingParams {
  const filtered = { temperature: 0.8, topP: 0.95, topK: 50, seed: 1000 + index };
  const kinds: SamplingParams[] = [
    { temperature: 0 },
    filtered,
    { temperature: 0.8, minP: 0.05, seed: index, n: 2 },
    { ...filtered, repetitionPenalty: 1.2, presencePenalty: 0.3, frequencyPenalty: 0.2 },
    { ...filtered, logitBias: { [7 + (index % 20)]: 4, [vocabSize - 1]: -5 } },
    { temperature: 0, repetitionPenalty: 1.3, logprobs: 3 },
    { temperature: 1, seed: -index, logprobs: 0, promptLogprobs: 2 },
    { ...filtered, minTokens: 6, allowedTokenIds: Array.from({ length: 100 }, (_, i) => 10 + 2 * i) },
  ];
  return kinds[index % kinds.length]!;
}

/** `count` requests of 1 to 160 prompt tokens; every fourth begins like the others of its kind, so prefixes are shared. */
export function mixedWork(count: number, vocabSize: number, maxTokens = 24): Work[] {
  const next = integers(count);
  const common = randomPrompt(99, 70, vocabSize);
  return Array.from({ length: count }, (_, i) => {
    const own = randomPrompt(i, 1 + next(i % 8 === 0 ? 160 : 60), vocabSize);
    const promptTokenIds = i % 4 === 1 ? [...common.slice(0, 32 + next(38)), ...own] : own;
    return { promptTokenIds, params: { ...samplingOf(i, vocabSize), maxTokens: maxTokens - (i % 5), ignoreEos: i % 3 !== 0 } };
  });
}

/** KV blocks that all requests need at their full length. */
export function blocksFor(work: readonly Work[], blockSize = 16): number {
  return work.reduce((sum, { promptTokenIds, params }) => sum + (params.n ?? 1) * Math.ceil((promptTokenIds.length + (params.maxTokens ?? 16)) / blockSize), 0);
}

export function runTogether(llm: LLM, work: readonly Work[]): Promise<RequestOutput[]> {
  return llm.generate(
    work.map(({ promptTokenIds }) => ({ promptTokenIds })),
    work.map(({ params }) => params),
  );
}

export async function runAlone(llm: LLM, work: readonly Work[]): Promise<RequestOutput[]> {
  const outputs: RequestOutput[] = [];
  for (const { promptTokenIds, params } of work) outputs.push(...(await llm.generate({ promptTokenIds }, params)));
  return outputs;
}

/** What must not depend on how a request was run: tokens, text, end, and every log probability to the last bit. */
export function essence(output: RequestOutput): unknown {
  const { promptLogprobs, outputs } = output;
  return { promptLogprobs, outputs };
}

/** {@link essence} without what another kernel rounds otherwise: tokens, text and end. */
export function tokensAndText({ outputs }: RequestOutput): unknown {
  return outputs.map(({ tokenIds, text, finishReason, stopReason }) => ({ tokenIds, text, finishReason, stopReason }));
}

export function tokensOf(outputs: readonly RequestOutput[]): number[][] {
  return outputs.map((o) => [...o.outputs[0]!.tokenIds]);
}

/** Requests of the tests fit into this many bytes of KV cache; by default every engine would take the better part of a GPU. */
const GPU_CACHE_BYTES = 256 << 20;

/** The options of a test's engine: on the CPU unless `args` say otherwise. */
export function argsFor(model: TestModel, args: Partial<EngineArgs> = {}): EngineArgs {
  return { model: model.path, device: 'cpu', ...(args.device === 'cuda' ? { kvCacheBytes: GPU_CACHE_BYTES } : {}), ...args };
}

export function open(model: TestModel, args: Partial<EngineArgs> = {}): Promise<LLM> {
  return LLM.create(argsFor(model, args));
}

/** Nothing native is left of engines in this thread. */
export function expectNothingLeft(): void {
  expect(liveStorages()).toMatchObject({ count: 0, bytes: 0 });
}
