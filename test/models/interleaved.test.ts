import { LLM, type EngineArgs, type RequestOutput } from '../../lib/index';
import { describeShared, sharedPath } from '../fixtures/shared';
import { expectNothingLeft, randomPrompt } from '../integration/workload';
import { promptLogprobs } from './changed-config';
import { readGolden } from './golden-suite';

async function withLlm<T>(model: string, args: Partial<EngineArgs>, use: (llm: LLM) => Promise<T>): Promise<T> {
  const llm = await LLM.create({ model, dtype: 'float32', device: 'cpu', ...args });
  try {
    return await use(llm);
  } finally {
    await llm.close();
    expectNothingLeft();
  }
}

const greedy = async (llm: LLM, promptTokenIds: readonly number[], maxTokens: number): Promise<RequestOutput> =>
  (await llm.generate({ promptTokenIds: [...promptTokenIds] }, { temperature: 0, maxTokens, ignoreEos: true }))[0]!;

const tokens = (output: RequestOutput): readonly number[] => output.outputs[0]!.tokenIds;

describeShared('layers with a window of 16 between full ones (Gemma 2)', () => {
  const model = sharedPath('models', 'tiny-random/gemma2');
  /** A prompt of 42 tokens and 48 more: several windows. */
  const { prompt_ids: prompt, output_ids: expected } = readGolden('tiny-random/gemma2').greedy[1] ?? { prompt_ids: [], output_ids: [] };

  it('a second identical prompt takes its blocks from the cache, and both continue as the reference does', () =>
    withLlm(model, {}, async (llm) => {
      const [first, second] = [await greedy(llm, prompt, 48), await greedy(llm, prompt, 48)];
      expect(first.numCachedTokens).toBe(0);
      expect(second.numCachedTokens).toBe(32);
      expect(tokens(first)).toEqual(expected);
      expect(tokens(second)).toEqual(expected);
    }));

  it('what was generated is taken from the cache too, beyond the window, and continues as without a cache', async () => {
    const longer = [...prompt, ...expected];
    const cached = await withLlm(model, {}, async (llm) => {
      await greedy(llm, prompt, 48);
      return greedy(llm, longer, 40);
    });
    // The last token that was generated was never run: 89 tokens are known, in 5 blocks of 16 and a part.
    expect(cached.numCachedTokens).toBe(80);
    const fresh = await withLlm(model, { enablePrefixCaching: false }, (llm) => greedy(llm, longer, 40));
    expect(fresh.numCachedTokens).toBe(0);
    expect(tokens(cached)).toEqual(tokens(fresh));
  });

  it.each([7, 16, 33])('prompts in chunks of %d tokens give the tokens of the reference', (maxNumBatchedTokens) =>
    withLlm(model, { maxNumBatchedTokens, maxNumSeqs: 4 }, async (llm) => {
      expect(tokens(await greedy(llm, prompt, 48))).toEqual(expected);
      const again = await greedy(llm, prompt, 48);
      expect(again.numCachedTokens).toBe(32);
      expect(tokens(again)).toEqual(expected);
    }),
  );
});

describeShared('forms in which config.json says which layers slide (Ministral)', () => {
  const name = 'tiny-random/mistral-sliding-window';
  const prompt = randomPrompt(1, 70, 512);

  const logprobs = (changes: Record<string, unknown>): Promise<number[]> => promptLogprobs(name, prompt, changes);

  it('all mean the same; within the window all layers agree, beyond it they do not', async () => {
    const [uniform, none] = [await logprobs({}), await logprobs({ sliding_window: null })];
    const forms = [
      { layer_types: ['sliding_attention', 'full_attention', 'sliding_attention'] },
      { sliding_window_pattern: 2 },
      { sliding_window: [16, null, 16] },
      { sliding_window: [16, null] },
    ];
    const results: number[][] = [];
    for (const form of forms) results.push(await logprobs(form));
    for (const result of results) expect(result).toEqual(results[0]);
    for (const other of [uniform, none]) {
      expect(results[0]!.slice(0, 15)).toEqual(other.slice(0, 15));
      expect(results[0]!.slice(20)).not.toEqual(other.slice(20));
    }
  });

  it('a list of equal windows is one window for all', async () => {
    expect(await logprobs({ sliding_window: [16, 16, 16] })).toEqual(await logprobs({}));
  });
});
