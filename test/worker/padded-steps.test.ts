import * as path from 'node:path';
import { LLM } from '../../lib/engine/llm';
import type { RequestOutput } from '../../lib/engine/outputs';
import type { SamplingParams } from '../../lib/sampling/params';
import { liveStorages } from '../../lib/tensor/device';
import type { Tensor } from '../../lib/tensor/tensor';
import { CudaGraphRunner, cudaGraphSizes } from '../../lib/worker/cuda-graphs';
import { ModelRunner } from '../../lib/worker/model-runner';
import { describeShared, sharedPath } from '../fixtures/shared';
import { ranks } from '../integration/tensor-parallel-suite';

const TALES = path.join(__dirname, '..', '..', 'examples', 'models', 'kvasir-tales-5m');
/** Two KV cache groups. */
const GEMMA = sharedPath('models', 'tiny-random', 'gemma2');
const MAX_SEQS = 11;

/** Which way a decode step takes its tokens, by the number of steps that did. */
type Ways = Record<'logits' | 'tokens' | 'candidates', number>;

/** Makes decode steps take the way of CUDA graphs: padded, tokens drawn in the graph where possible. Every step runs its ops. */
function useGraphPath(): Ways {
  const ways: Ways = { logits: 0, tokens: 0, candidates: 0 };
  const { initialize } = ModelRunner.prototype;
  jest.spyOn(ModelRunner.prototype, 'initialize').mockImplementation(function (this: ModelRunner, onProgress) {
    const runner = (way: keyof Ways): CudaGraphRunner => {
      const graphs = new CudaGraphRunner(null as never, cudaGraphSizes(MAX_SEQS));
      graphs.run = (_size: number, body: () => Tensor) => {
        ways[way]++;
        return body();
      };
      return graphs;
    };
    const tokens = new Map([0, 1, 64].map((k) => [k, runner(k === 0 ? 'tokens' : 'candidates')]));
    Object.assign(this, { graphs: { logits: runner('logits'), tokens } });
    return initialize.call(this, onProgress);
  });
  return ways;
}

/** Requests of different lengths, some of which need more than drawing. */
function work(special: boolean, vocabSize: number, topK: number): { prompts: { promptTokenIds: number[] }[]; params: SamplingParams[] } {
  const prompts = Array.from({ length: 17 }, (_, i) => ({ promptTokenIds: Array.from({ length: 1 + ((i * 7) % 40) }, (__, k) => 3 + ((i * 31 + k * 17) % (vocabSize - 48))) }));
  const params = prompts.map((_, i): SamplingParams => {
    const plain = { temperature: [0, 0.8, 1.3][i % 3]!, topP: i % 4 === 0 ? 0.9 : 1, topK, seed: i, maxTokens: 6 + ((i * 13) % 30), ignoreEos: true };
    const extra: SamplingParams[] = [{ logprobs: 3 }, { frequencyPenalty: 0.5, repetitionPenalty: 1.2 }, { minTokens: 6, ignoreEos: false }, { logitBias: { 17: 3 } }, { promptLogprobs: 1 }];
    return special ? { ...plain, ...extra[i] } : plain; // those that come last are plain
  });
  return { prompts, params };
}

async function run(model: string, asyncScheduling: boolean, special: boolean, numRanks = 1): Promise<unknown[]> {
  const args = { model, device: 'cpu', numThreads: 1, maxNumSeqs: MAX_SEQS, maxModelLen: 128, asyncScheduling, numKvBlocks: 200 } as const;
  const llm = await LLM.create(args, numRanks === 1 ? {} : ranks(numRanks));
  const { prompts, params } = work(special, llm.config.model.vocabSize, numRanks === 1 ? 0 : 40);
  try {
    const outputs: RequestOutput[] = await llm.generate(prompts, params);
    return outputs.map(({ promptLogprobs, outputs: [o] }) => [promptLogprobs, o!.tokenIds, o!.logprobs, o!.finishReason]);
  } finally {
    await llm.close();
    expect(liveStorages().count).toBe(0);
  }
}

describe.each([
  ['kvasir-tales-5m', TALES, describe],
  ['gemma2, layers in two KV cache groups', GEMMA, describeShared],
] as const)('decode steps as CUDA graphs take them: %s', (_, model, describeModel) => {
  describeModel('with padding', () => {
    afterEach(() => void jest.restoreAllMocks());

    it.each([
      [false, false],
      [false, true],
      [true, false],
      [true, true],
    ])('give bit for bit what plain steps give (asyncScheduling %p, requests that need more than drawing %p)', async (asyncScheduling, special) => {
      const expected = await run(model, asyncScheduling, special);
      const ways = useGraphPath();
      expect(await run(model, asyncScheduling, special)).toEqual(expected);
      expect(ways.tokens).toBeGreaterThan(5);
      expect(ways.logits > 5).toBe(special);
      expect(ways.candidates).toBe(0);
    });

    it.each([false, true])('give several ranks, which exchange candidates, what plain steps do (requests that need more than drawing %p)', async (special) => {
      const expected = await run(model, true, special, 2);
      const ways = useGraphPath();
      expect(await run(model, true, special, 2)).toEqual(expected);
      expect(ways.candidates).toBeGreaterThan(5);
      expect(ways.tokens).toBe(0);
      expect(ways.logits > 5).toBe(special);
    });
  });
});
