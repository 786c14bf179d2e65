import type { EngineArgs, LLM } from '../../lib/index';
import { expectNothingLeft, open, randomPrompt, TALES, tokensOf } from './workload';

const GREEDY = { temperature: 0, maxTokens: 12 };
const STORY = 'Once upon a time, there was a little girl named Lily. She loved to play outside in the park with her red ball and her dog. One day, ';

/** Registers the tests of the prefix cache, with kvasir-tales-5m. */
export function prefixCacheSuite(args: Partial<EngineArgs> = {}): void {
  let llm: LLM;
  beforeEach(async () => void (llm = await open(TALES, { dtype: 'float32', ...args })));
  afterEach(async () => {
    await llm.close();
    expectNothingLeft();
  });

  const generate = async (prompt: Parameters<LLM['generate']>[0], params = {}) => llm.generate(prompt, { ...GREEDY, ...params });

  test('a second identical prompt takes its blocks from the cache and gives the same tokens', async () => {
    const [first] = await generate(STORY);
    const [second] = await generate(STORY);
    expect(first!.numCachedTokens).toBe(0);
    expect(second!.numCachedTokens).toBe(Math.floor((first!.promptTokenIds.length - 1) / 16) * 16);
    expect(second!.numCachedTokens).toBeGreaterThan(0);
    expect(second!.outputs).toEqual(first!.outputs);
  });

  test('a conversation that goes on takes what was generated from the cache too', async () => {
    const [first] = await generate({ promptTokenIds: randomPrompt(1, 30, 2048) }, { maxTokens: 40, ignoreEos: true });
    const longer = [...first!.promptTokenIds, ...first!.outputs[0]!.tokenIds, 7, 8, 9];
    const [cached] = await generate({ promptTokenIds: longer });
    // The last token that was generated was never run.
    expect(cached!.numCachedTokens).toBe(Math.floor((30 + 40 - 1) / 16) * 16);
    expect(await llm.resetPrefixCache()).toBe(true);
    const [fresh] = await generate({ promptTokenIds: longer });
    expect(fresh!.numCachedTokens).toBe(0);
    expect(cached!.outputs).toEqual(fresh!.outputs);
  });

  test('identical prompts in one batch share blocks, and sequences of one prompt do', async () => {
    const prompt = { promptTokenIds: randomPrompt(2, 50, 2048) };
    const outputs = await generate([prompt, prompt, prompt]);
    expect(outputs.map((o) => o.numCachedTokens)).toEqual([0, 48, 48]);
    expect(new Set(tokensOf(outputs).map(String)).size).toBe(1);
    const [sampled] = await generate(prompt, { n: 3, temperature: 1, seed: 5 });
    expect(new Set(sampled!.outputs.map((o) => String(o.tokenIds))).size).toBe(3);
    expect((await llm.stats()).prefixCacheHits).toBe(5 * 48);
  });

  test('prompts of other salts share nothing', async () => {
    const promptTokenIds = randomPrompt(3, 40, 2048);
    const cached: number[] = [];
    for (const cacheSalt of ['a', 'b', undefined, 'a']) {
      cached.push((await generate({ promptTokenIds, cacheSalt }))[0]!.numCachedTokens);
    }
    expect(cached).toEqual([0, 0, 0, 32]);
  });

  test('is not emptied under a running request', async () => {
    const running = generate({ promptTokenIds: randomPrompt(4, 40, 2048) }, { maxTokens: 50, ignoreEos: true });
    await new Promise((resolve) => setTimeout(resolve, 5));
    expect(await llm.resetPrefixCache()).toBe(false);
    await running;
    expect(await llm.resetPrefixCache()).toBe(true);
  });
}
