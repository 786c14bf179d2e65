import type { EngineArgs, LLM, RequestOutput, SchedulerStats } from '../../lib/index';
import { sharedPath } from '../fixtures/shared';
import { ModelCopy } from './model-copy';
import { essence, expectNothingLeft, mixedWork, open, randomPrompt, runTogether, type TestModel, type Work } from './workload';

/** Models with sliding layers: their files, what their config.json is changed to, and a pool that is too small for 16 requests. */
export const SLIDING_MODELS: readonly { name: string; source: string; changes: Record<string, unknown>; windows: (number | null)[]; scarceBlocks: number }[] = [
  { name: 'every other layer slides (Gemma 2)', source: 'gemma2', changes: {}, windows: [null, 16], scarceBlocks: 80 },
  { name: 'every layer slides (Mistral)', source: 'mistral-sliding-window', changes: {}, windows: [16], scarceBlocks: 24 },
  { name: 'few layers are full', source: 'mistral-sliding-window', changes: { layer_types: ['sliding_attention', 'full_attention', 'sliding_attention'] }, windows: [null, 16, 16], scarceBlocks: 80 },
  { name: 'several windows', source: 'mistral-sliding-window', changes: { sliding_window: [5, null, 40] }, windows: [null, 40, 5], scarceBlocks: 80 },
];

type SlidingModel = (typeof SLIDING_MODELS)[number];

/** Ways to run the same work, each of which takes and gives blocks in another order. */
const WAYS: readonly { name: string; args: Partial<EngineArgs>; preempts?: true }[] = [
  { name: 'as it is', args: {} },
  { name: 'prompts in chunks of 16', args: { maxNumBatchedTokens: 16, maxNumSeqs: 8 } },
  { name: 'asynchronously', args: { asyncScheduling: true } },
  { name: 'without a prefix cache', args: { enablePrefixCaching: false } },
  { name: 'with preemptions', args: { maxNumSeqs: 16, maxNumBatchedTokens: 64 }, preempts: true },
  { name: 'with preemptions, asynchronously', args: { maxNumSeqs: 16, maxNumBatchedTokens: 64, asyncScheduling: true }, preempts: true },
];

const GREEDY = { temperature: 0, ignoreEos: true };

/** Requests of up to 160 + 100 tokens; then some that go on from what the first ones gave. */
async function runAll(llm: LLM, work: readonly Work[]): Promise<RequestOutput[]> {
  const first = await runTogether(llm, work);
  const longer = first.filter((_, i) => i % 3 === 0).map((o) => ({ promptTokenIds: [...o.promptTokenIds, ...o.outputs[0]!.tokenIds, 7, 8, 9] }));
  return [...first, ...(await llm.generate(longer, { ...GREEDY, maxTokens: 20 }))];
}

/** Registers the tests of one model on one device. */
export function hybridKvSuite(model: SlidingModel, base: Partial<EngineArgs> = {}): void {
  const work = mixedWork(20, 512, 100).map((w) => ({ ...w, params: { ...w.params, ignoreEos: true } }));
  let copy: ModelCopy;
  let expected: RequestOutput[];
  const files = (): TestModel => ({ name: model.name, path: copy.dir, missing: false });
  const withLlm = async <T>(args: Partial<EngineArgs>, use: (llm: LLM) => Promise<T>): Promise<T> => {
    const llm = await open(files(), { dtype: 'float32', ...base, ...args });
    try {
      return await use(llm);
    } finally {
      await llm.close();
      expectNothingLeft();
    }
  };

  beforeAll(async () => {
    copy = new ModelCopy(sharedPath('models', 'tiny-random', model.source));
    copy.editJson('config.json', (config) => Object.assign(config, model.changes));
    expected = await withLlm({ hybridKvCacheManager: false, enablePrefixCaching: false }, (llm) => runAll(llm, work));
  });
  afterAll(() => copy.remove());

  test.each(WAYS)('gives what layers that keep everything give: $name', async ({ args, preempts }) => {
    await withLlm({ ...args, ...(preempts ? { numKvBlocks: model.scarceBlocks } : {}) }, async (llm) => {
      expect((await runAll(llm, work)).map(essence)).toEqual(expected.map(essence));
      const stats = await llm.stats();
      expect(stats.kvCacheGroups.map((group) => [group.slidingWindow, group.numBlocksHeld])).toEqual(model.windows.map((window) => [window, 0]));
      expect(stats.prefixCacheHits > 0).toBe(args.enablePrefixCaching !== false);
      expect(stats.numPreemptions > 0).toBe(preempts === true);
    });
  });

  test('over 400 tokens, a window of W holds at most ceil(W / 16) + 1 blocks; without groups everything is held', async () => {
    const run = (args: Partial<EngineArgs>): Promise<{ tokens: readonly number[]; stats: SchedulerStats }> =>
      withLlm(args, async (llm) => {
        const [output] = await llm.generate({ promptTokenIds: randomPrompt(3, 10, 512) }, { ...GREEDY, maxTokens: 390 });
        return { tokens: output!.outputs[0]!.tokenIds, stats: await llm.stats() };
      });
    const [on, off] = [await run({}), await run({ hybridKvCacheManager: false })];
    expect(on.tokens).toHaveLength(390);
    expect(on.tokens).toEqual(off.tokens);
    expect(off.stats.kvCacheGroups).toMatchObject([{ slidingWindow: null, peakBlocksHeld: 25 }]);
    for (const { slidingWindow, peakBlocksHeld } of on.stats.kvCacheGroups) {
      if (slidingWindow === null) expect(peakBlocksHeld).toBe(25);
      else expect(peakBlocksHeld).toBeLessThanOrEqual(Math.ceil(slidingWindow / 16) + 1);
    }
  });

  test('a prefix far behind the window is hit, alone and in a batch, and continues as without a cache', async () => {
    const prompt = randomPrompt(5, 200, 512);
    const cached = await withLlm({}, async (llm) => {
      const once = await llm.generate({ promptTokenIds: prompt }, { ...GREEDY, maxTokens: 60 });
      const again = await llm.generate([0, 1, 2].map((i) => ({ promptTokenIds: [...prompt.slice(0, 200 - 16 * i), 9, i] })), { ...GREEDY, maxTokens: 60 });
      return [...once, ...again];
    });
    expect(cached.map((o) => o.numCachedTokens)).toEqual([0, 192, 176, 160]);
    await withLlm({ hybridKvCacheManager: false, enablePrefixCaching: false }, async (llm) => {
      const fresh = await llm.generate(cached.map((o) => ({ promptTokenIds: o.promptTokenIds })), { ...GREEDY, maxTokens: 60 });
      expect(cached.map(essence)).toEqual(fresh.map(essence));
    });
  });
}
