import type { EngineArgs, LLM, RequestOutput } from '../../lib/index';
import { blocksFor, essence, expectNothingLeft, mixedWork, open, runAlone, runTogether, tokensAndText, type TestModel, type Work } from './workload';

const BATCH = 64;

/** Ways to run the same requests. */
export const WAYS: Readonly<Record<string, Partial<EngineArgs>>> = {
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

export interface BatchSuite {
  readonly model: TestModel;
  /** Device and dtype, and what else all engines of the suite have in common. */
  readonly args: Partial<EngineArgs>;
  readonly ways: Readonly<Record<string, Partial<EngineArgs>>>;
  /** What of the results must be the same: every bit of them, or their tokens, where kernels are chosen by the size of the batch. */
  readonly same: 'bits' | 'tokens';
}

/** Registers the tests that what a request generates does not depend on how it is run. */
export function batchSuite({ model, args, ways, same }: BatchSuite): void {
  const whole = { asyncScheduling: false, maxNumBatchedTokens: 8192, ...args };
  let work: Work[];
  let alone: RequestOutput[];

  beforeAll(async () => {
    const { result } = await withLLM(model, whole, async (llm) => {
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

  test.each(Object.keys(ways))('being run %s', async (way) => {
    const { result } = await withLLM(model, { ...whole, ...ways[way] }, (llm) => runTogether(llm, work));
    expectSame(result, alone, same);
  });

  test.each([
    { enablePrefixCaching: true },
    { enablePrefixCaching: false },
    { enablePrefixCaching: true, asyncScheduling: true },
    { enablePrefixCaching: false, asyncScheduling: true, maxNumBatchedTokens: 64 },
  ])('a KV pool four times too small, %j', async (options) => {
    const numKvBlocks = Math.ceil(blocksFor(work) / 4) + 1;
    const { result, numPreemptions } = await withLLM(model, { ...whole, numKvBlocks, ...options }, (llm) => runTogether(llm, work));
    expect(numPreemptions).toBeGreaterThan(0);
    expectSame(result, alone, same);
  });

  test('its prompt being in the prefix cache', async () => {
    await withLLM(model, args, async (llm) => {
      await runTogether(llm, work);
      const again = await runTogether(llm, work);
      expectSame(again, alone, same);
      work.forEach(({ promptTokenIds, params }, i) => {
        // The last token is always computed; prompt logprobs need every position.
        const expected = params.promptLogprobs === undefined ? Math.floor((promptTokenIds.length - 1) / 16) * 16 : 0;
        expect(again[i]!.numCachedTokens).toBe(expected);
      });
      expect((await llm.stats()).prefixCacheHits).toBeGreaterThan(0);
    });
  });
}

/** Runs with an engine of its own; afterwards its pool must be whole, and nothing must be left of it. */
export async function withLLM<T>(model: TestModel, args: Partial<EngineArgs>, use: (llm: LLM) => Promise<T>): Promise<{ result: T; numPreemptions: number }> {
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

/** The message names the first request that differs. */
export function expectSame(received: readonly RequestOutput[], expected: readonly RequestOutput[], same: BatchSuite['same']): void {
  const part = same === 'bits' ? essence : tokensAndText;
  expect(received).toHaveLength(expected.length);
  received.forEach((output, index) => expect({ index, output: part(output) }).toEqual({ index, output: part(expected[index]!) }));
  expect(distances(received, expected).filter((distance) => !(distance < 1e-3))).toEqual([]);
}

/** How far apart the log probabilities of the tokens are that both drew. */
function distances(received: readonly RequestOutput[], expected: readonly RequestOutput[]): number[] {
  const logprobs = (outputs: readonly RequestOutput[]) => outputs.flatMap((o) => [...(o.promptLogprobs ?? []), ...o.outputs.flatMap((c) => c.logprobs ?? [])]).map((entries) => entries?.[0]?.logprob ?? 0);
  const [a, b] = [logprobs(received), logprobs(expected)];
  return a.map((value, i) => Math.abs(value - b[i]!));
}
