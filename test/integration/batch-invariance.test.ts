import type { EngineArgs, LLM, RequestOutput } from '../../lib/index';
import { blocksFor, essence, expectNothingLeft, mixedWork, open, runAlone, runTogether, STORIES, TALES, type TestModel, type Work } from './workload';

const BATCH = 64;

/** Ways to run the same requests. */
const WAYS: Record<string, Partial<EngineArgs>> = {
  'in a batch of 64': {},
  'with prefix caching off': { enablePrefixCaching: false },
  'in steps of 64 tokens': { maxNumBatchedTokens: 64 },
  'in steps of 64 tokens, with prefix caching off': { maxNumBatchedTokens: 64, enablePrefixCaching: false },
  'in steps of 16 tokens': { maxNumBatchedTokens: 16 },
  'in steps of 16 tokens, with prefix caching off': { maxNumBatchedTokens: 16, enablePrefixCaching: false },
  'on one thread': { numThreads: 1 },
  'with a step queued ahead': { asyncScheduling: true },
  'with a step queued ahead, in steps of 16 tokens': { asyncScheduling: true, maxNumBatchedTokens: 16 },
};

const CASES = [STORIES, TALES].flatMap((model) => (['float32', 'bfloat16'] as const).map((dtype) => ({ model, dtype })));

for (const { model, dtype } of CASES) {
  (model.missing ? describe.skip : describe)(`${model.name}, ${dtype}: what a request generates does not depend on`, () => {
    let work: Work[];
    let alone: RequestOutput[];

    beforeAll(async () => {
      const { result } = await withLLM(model, { dtype, maxNumBatchedTokens: 8192 }, async (llm) => {
        work = mixedWork(BATCH, llm.config.model.vocabSize);
        return runAlone(llm, work);
      });
      alone = result;
    });

    test('(a request alone generates something)', () => {
      const sequences = alone.flatMap((output) => output.outputs);
      expect(sequences.filter((s) => s.finishReason !== 'length' && s.finishReason !== 'stop')).toEqual([]);
      expect(new Set(sequences.flatMap((s) => s.tokenIds)).size).toBeGreaterThan(100);
      expect(sequences.flatMap((s) => s.logprobs ?? []).flat().every((entry) => entry.logprob < 0)).toBe(true);
    });

    test.each(Object.keys(WAYS))('being run %s', async (way) => {
      const { result } = await withLLM(model, { dtype, maxNumBatchedTokens: 8192, ...WAYS[way] }, (llm) => runTogether(llm, work));
      expectSame(result, alone);
    });

    test.each([
      { enablePrefixCaching: true },
      { enablePrefixCaching: false },
      { enablePrefixCaching: true, asyncScheduling: true },
      { enablePrefixCaching: false, asyncScheduling: true, maxNumBatchedTokens: 64 },
    ])('a KV pool four times too small, %j', async (options) => {
      const numKvBlocks = Math.ceil(blocksFor(work) / 4) + 1;
      const args = { dtype, maxNumBatchedTokens: 8192, numKvBlocks, ...options };
      const { result, numPreemptions } = await withLLM(model, args, (llm) => runTogether(llm, work));
      expect(numPreemptions).toBeGreaterThan(0);
      expectSame(result, alone);
    });

    test('its prompt being in the prefix cache', async () => {
      await withLLM(model, { dtype }, async (llm) => {
        await runTogether(llm, work);
        const again = await runTogether(llm, work);
        expectSame(again, alone);
        work.forEach(({ promptTokenIds, params }, i) => {
          // The last token is always computed; prompt logprobs need every position.
          const expected = params.promptLogprobs === undefined ? Math.floor((promptTokenIds.length - 1) / 16) * 16 : 0;
          expect(again[i]!.numCachedTokens).toBe(expected);
        });
        expect((await llm.stats()).prefixCacheHits).toBeGreaterThan(0);
      });
    });
  });
}

/** Runs with an engine of its own; afterwards its pool must be whole, and nothing must be left of it. */
async function withLLM<T>(model: TestModel, args: Partial<EngineArgs>, use: (llm: LLM) => Promise<T>): Promise<{ result: T; numPreemptions: number }> {
  const llm = await open(model, args);
  try {
    const result = await use(llm);
    const { numPreemptions, ...gauges } = await llm.stats();
    expect(gauges).toMatchObject({ numRunning: 0, numWaiting: 0, kvCacheUsage: 0 });
    await expectWholePool(llm);
    return { result, numPreemptions };
  } finally {
    await llm.close();
    expectNothingLeft();
  }
}

/** One request that takes every block the pool has, or the longest that the model runs. */
async function expectWholePool(llm: LLM): Promise<void> {
  expect(await llm.resetPrefixCache()).toBe(true);
  const room = Math.min(llm.config.model.maxModelLen, (llm.info.numBlocks - 1) * 16);
  const [output] = await llm.generate({ promptTokenIds: new Array<number>(room - 1).fill(9) }, { temperature: 0, maxTokens: null, ignoreEos: true });
  expect(output!.outputs[0]!.finishReason).toBe('length');
}

/** Exactly the same, log probabilities included; the message names the first request that differs. */
function expectSame(received: readonly RequestOutput[], expected: readonly RequestOutput[]): void {
  expect(received).toHaveLength(expected.length);
  received.forEach((output, index) => expect({ index, ...(essence(output) as object) }).toEqual({ index, ...(essence(expected[index]!) as object) }));
}
