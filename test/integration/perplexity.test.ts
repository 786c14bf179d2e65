import type { LLM } from '../../lib/index';
import { describeShared, sharedPath } from '../fixtures/shared';
import { expectNothingLeft, open, randomPrompt, STORIES, TALES } from './workload';

const { perplexity, readTexts } = require('../../scripts/perplexity.js') as {
  perplexity(llm: LLM, texts: readonly string[], maxLen?: number): Promise<{ tokens: number; nllPerToken: number; perplexity: number }>;
  readTexts(file: string, limit: number): string[];
};

afterEach(expectNothingLeft);

describeShared('perplexity of stories260K on 100 texts of TinyStories', () => {
  const texts = () => readTexts(sharedPath('prompts', 'tinystories_first600.jsonl'), 100);

  test('is that of Hugging Face transformers: 1.40762 nats a token', async () => {
    const llm = await open(STORIES, { dtype: 'float32' });
    try {
      const result = await perplexity(llm, texts());
      expect(result.tokens).toBe(37072);
      expect(Math.abs(result.nllPerToken - 1.40762)).toBeLessThan(0.0001);
      expect(Math.abs(result.perplexity - 4.0862)).toBeLessThan(0.0005);
    } finally {
      await llm.close();
    }
  });

  test('is nearly the same in bfloat16, and exactly the same in small steps', async () => {
    const results = [];
    for (const args of [{}, { maxNumBatchedTokens: 64 }]) {
      const llm = await open(STORIES, { dtype: 'bfloat16', ...args });
      results.push(await perplexity(llm, texts().slice(0, 40)));
      await llm.close();
    }
    expect(results[1]).toEqual(results[0]);
    const llm = await open(STORIES, { dtype: 'float32' });
    const exact = await perplexity(llm, texts().slice(0, 40));
    await llm.close();
    expect(Math.abs(results[0]!.nllPerToken - exact.nllPerToken)).toBeLessThan(0.01);
    expect(results[0]!.nllPerToken).not.toBe(exact.nllPerToken);
  });
});

describe('log probabilities of the whole vocabulary (maxLogprobs: -1)', () => {
  test('sum to one at every position, and the token forced by allowedTokenIds has the same in both ways', async () => {
    const llm = await open(TALES, { dtype: 'float32', maxLogprobs: -1 });
    try {
      const promptTokenIds = randomPrompt(7, 20, 2048);
      const [all] = await llm.generate({ promptTokenIds }, { temperature: 0, maxTokens: 2, logprobs: -1, promptLogprobs: -1, ignoreEos: true });
      const positions = [...all!.promptLogprobs!.slice(1), ...all!.outputs[0]!.logprobs!];
      expect(positions).toHaveLength(19 + 2);
      for (const entries of positions) {
        expect(new Set(entries!.map((e) => e.tokenId)).size).toBe(2048);
        expect(entries!.reduce((sum, e) => sum + Math.exp(e.logprob), 0)).toBeCloseTo(1, 4);
      }
      const target = 1234;
      const [forced] = await llm.generate({ promptTokenIds }, { temperature: 0, maxTokens: 1, logprobs: 0, allowedTokenIds: [target] });
      const wanted = all!.outputs[0]!.logprobs![0]!.find((e) => e.tokenId === target)!;
      expect(forced!.outputs[0]!.logprobs![0]).toMatchObject([{ tokenId: target, logprob: wanted.logprob, rank: wanted.rank }]);
    } finally {
      await llm.close();
    }
  });
});
