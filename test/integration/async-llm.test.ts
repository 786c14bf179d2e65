import { AsyncLLM, type RequestOutput, type SamplingParams } from 'kvasir';
import { mixedWork, randomPrompt, STORIES, TALES, type TestModel, type Work } from './workload';

interface Seen {
  readonly last: RequestOutput;
  readonly numOutputs: number;
}

/** Reads a stream; after `leaveAfter` outputs its consumer goes away. */
async function consume(llm: AsyncLLM, { promptTokenIds, params }: Work, options: { requestId?: string; leaveAfter?: number } = {}): Promise<Seen> {
  let last: RequestOutput | null = null;
  let numOutputs = 0;
  for await (const output of llm.generate({ promptTokenIds }, params, { requestId: options.requestId })) {
    last = output;
    if (++numOutputs === options.leaveAfter) break;
  }
  return { last: last!, numOutputs };
}

const open = (model: TestModel, args = {}): Promise<AsyncLLM> => AsyncLLM.create({ model: model.path, device: 'cpu', dtype: 'float32', ...args });
const outputsOf = (seen: readonly Seen[]) => seen.map(({ last }) => last.outputs);

/** Nothing runs, and every block can be taken again. */
async function expectIdle(llm: AsyncLLM): Promise<void> {
  expect(await llm.stats()).toMatchObject({ numRunning: 0, numWaiting: 0, kvCacheUsage: 0 });
  expect(await llm.resetPrefixCache()).toBe(true);
}

describe.each([STORIES, TALES].map((model) => ({ model, name: model.name })))('AsyncLLM, $name', ({ model }) => {
  const run = model.missing ? test.skip : test;
  const work = mixedWork(64, 512, 40);

  run('64 streams at once, every third given up: the others are as in a quiet run', async () => {
    const llm = await open(model, { maxNumSeqs: 32 });
    try {
      const quiet: Seen[] = [];
      for (const one of work) quiet.push(await consume(llm, one));
      expect(await llm.resetPrefixCache()).toBe(true);
      const seen = await Promise.all(
        work.map((one, i) => {
          if (i % 3 !== 0) return consume(llm, one);
          // Its consumer leaves, or somebody aborts it by name at some later time.
          if (i % 2 === 0) return consume(llm, one, { leaveAfter: 1 + (i % 5) });
          setTimeout(() => llm.abort(`mine-${i}`), i % 7);
          return consume(llm, one, { requestId: `mine-${i}` });
        }),
      );
      const kept = work.flatMap((_, i) => (i % 3 !== 0 ? [i] : []));
      expect(outputsOf(kept.map((i) => seen[i]!))).toEqual(outputsOf(kept.map((i) => quiet[i]!)));
      const given = work.flatMap((_, i) => (i % 3 === 0 ? [i] : []));
      const length = ({ last }: Seen): number => last.outputs.reduce((sum, o) => sum + o.tokenIds.length, 0);
      expect(given.filter((i) => length(seen[i]!) < length(quiet[i]!)).length).toBeGreaterThan(given.length / 2);
      for (const i of given) {
        // What came before the end is the beginning of what the quiet run gave.
        const [partial, whole] = [seen[i]!.last, quiet[i]!.last];
        partial.outputs.forEach((o, k) => expect(whole.outputs[k]!.tokenIds.slice(0, o.tokenIds.length)).toEqual(o.tokenIds));
      }
      await expectIdle(llm);
    } finally {
      await llm.close();
    }
  });

  run('a stream gives text as it comes: deltas put together are the whole', async () => {
    const llm = await open(model);
    try {
      const params: SamplingParams = { temperature: 0, maxTokens: 60, ignoreEos: true };
      let text = '';
      const tokenIds: number[] = [];
      let pieces = 0;
      for await (const { outputs } of llm.generate('Once upon a time', { ...params, outputKind: 'delta' })) {
        text += outputs[0]!.text;
        tokenIds.push(...outputs[0]!.tokenIds);
        pieces++;
      }
      let whole: RequestOutput | null = null;
      for await (const output of llm.generate('Once upon a time', { ...params, outputKind: 'final' })) whole = output;
      expect({ text, tokenIds }).toEqual({ text: whole!.outputs[0]!.text, tokenIds: whole!.outputs[0]!.tokenIds });
      expect(pieces).toBeGreaterThan(10);
      await expectIdle(llm);
    } finally {
      await llm.close();
    }
  });

  run('bad requests among good ones fail alone', async () => {
    const llm = await open(model);
    try {
      const ok = { promptTokenIds: randomPrompt(1, 20, 512), params: { temperature: 0 } };
      const [quiet] = await Promise.all([consume(llm, ok)]);
      const results = await Promise.allSettled([
        consume(llm, ok),
        consume(llm, { promptTokenIds: [-1], params: {} }),
        consume(llm, { promptTokenIds: [], params: {} }),
        consume(llm, { ...ok, params: { temperature: NaN } }),
        consume(llm, { promptTokenIds: new Array<number>(5000).fill(5), params: {} }),
        consume(llm, ok),
      ]);
      const codes = results.map((result) => (result.status === 'rejected' ? (result.reason as { code: string }).code : result.value.last.outputs));
      const same = quiet!.last.outputs;
      expect(codes).toEqual([same, 'ERR_KVASIR_PROMPT', 'ERR_KVASIR_PROMPT', 'ERR_KVASIR_PARAMS', 'ERR_KVASIR_PROMPT_TOO_LONG', same]);
      await expectIdle(llm);
    } finally {
      await llm.close();
    }
  });
});

describe('two AsyncLLM in one process (kvasir-tales-5m)', () => {
  const work = mixedWork(12, 2048);

  test('run at the same time, give what each gives alone, and end independently', async () => {
    const first = await open(TALES, { numThreads: 1 });
    const quiet = await Promise.all(work.map((one) => consume(first, one)));
    const second = await open(TALES, { numThreads: 1, enablePrefixCaching: false });
    const [a, b] = await Promise.all([first, second].map((llm) => Promise.all(work.map((one) => consume(llm, one)))));
    expect(outputsOf(a!)).toEqual(outputsOf(quiet));
    expect(outputsOf(b!)).toEqual(outputsOf(quiet));
    const running = expect(consume(first, { promptTokenIds: [5, 6], params: { maxTokens: 900, ignoreEos: true } })).rejects.toMatchObject({ code: 'ERR_KVASIR_CLOSED' });
    await new Promise((resolve) => setTimeout(resolve, 30));
    await first.close();
    await running;
    expect(outputsOf(await Promise.all(work.map((one) => consume(second, one))))).toEqual(outputsOf(quiet));
    await expectIdle(second);
    await second.close();
  });

  test('a model that cannot be loaded is one error, with the code and message of LLM', async () => {
    await expect(open({ ...TALES, path: `${TALES.path}/nowhere` })).rejects.toMatchObject({ code: 'ERR_KVASIR_MODEL_NOT_FOUND' });
    await expect(open(TALES, { kvCacheBytes: 10 })).rejects.toMatchObject({ code: 'ERR_KVASIR_OUT_OF_MEMORY', message: expect.stringContaining('kvCacheBytes') });
  });

  test('engines that come and go leave no memory behind', async () => {
    const cycle = async (): Promise<void> => {
      const llm = await open(TALES, { kvCacheBytes: 64 << 20 });
      await consume(llm, { promptTokenIds: randomPrompt(1, 600, 2048), params: { maxTokens: 2 } });
      await llm.close();
    };
    await cycle();
    const before = process.memoryUsage().rss;
    for (let i = 0; i < 6; i++) await cycle();
    // Each of them holds more than 20 MB of weights, cache and buffers.
    expect(process.memoryUsage().rss - before).toBeLessThan(60 << 20);
  });
});
