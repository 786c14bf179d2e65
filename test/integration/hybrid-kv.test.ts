import { AsyncLLM } from 'kvasir';
import { open, type TestModel } from './workload';
import { describeShared, sharedPath } from '../fixtures/shared';
import { comparable, readGolden } from '../models/golden-suite';
import { hybridKvSuite, SLIDING_MODELS } from './hybrid-kv-suite';

for (const model of SLIDING_MODELS) describeShared(`KV blocks of layers with sliding windows: ${model.name}`, () => hybridKvSuite(model));

describeShared.each(['gemma2', 'mistral-sliding-window'])('%s with groups of layers', (name) => {
  const { greedy } = readGolden(`tiny-random/${name}`);
  const model: TestModel = { name, path: sharedPath('models', 'tiny-random', name), missing: false };
  const args = { dtype: 'float32', device: 'cpu', asyncScheduling: true, maxNumBatchedTokens: 16, maxNumSeqs: 4 } as const;
  const params = { temperature: 0, maxTokens: Math.max(0, ...greedy.map((row) => row.output_ids.length)), ignoreEos: true };
  const prompts = greedy.map((row) => ({ promptTokenIds: row.prompt_ids }));
  const expected = greedy.map((row) => comparable(row));

  test('LLM gives the tokens of the reference, twice', async () => {
    const llm = await open(model, args);
    try {
      for (let round = 0; round < 2; round++) {
        const outputs = await llm.generate(prompts, params);
        expect(outputs.map((o, i) => o.outputs[0]!.tokenIds.slice(0, expected[i]!.length))).toEqual(expected);
      }
      expect((await llm.stats()).prefixCacheHits).toBeGreaterThan(0);
    } finally {
      await llm.close();
    }
  });

  test('AsyncLLM does too, and its core knows the groups', async () => {
    const llm = await AsyncLLM.create({ model: model.path, ...args });
    try {
      const last = async (promptTokenIds: readonly number[]): Promise<readonly number[]> => {
        let tokens: readonly number[] = [];
        for await (const output of llm.generate({ promptTokenIds: [...promptTokenIds] }, params)) tokens = output.outputs[0]!.tokenIds;
        return tokens;
      };
      const tokens = await Promise.all(prompts.map((prompt) => last(prompt.promptTokenIds)));
      expect(tokens.map((ids, i) => ids.slice(0, expected[i]!.length))).toEqual(expected);
      const { kvCacheGroups } = await llm.stats();
      expect(kvCacheGroups.map((group) => group.slidingWindow)).toEqual(name === 'gemma2' ? [null, 16] : [16]);
    } finally {
      await llm.close();
    }
  });
});
