import type { EngineArgs, LLM, RequestOutput } from '../../lib/index';
import { Scheduler } from '../../lib/core/scheduler';
import { blocksFor, expectNothingLeft, mixedWork, open, randomPrompt, runTogether, STORIES, TALES, TINY } from './workload';

const NUM_REQUESTS = 10_000;
const MAX_NUM_SEQS = 256;

/** Request ids in the order in which the scheduler first ran them, and in which they ended. */
interface Order {
  readonly scheduled: number[];
  readonly finished: number[];
}

/** Ids of requests count up from 0 in the order of arrival. */
const numberOf = (coreId: string): number => Number(/^\d+/.exec(coreId)![0]);

function watch(): Order {
  const order = { scheduled: [] as number[], finished: [] as number[] };
  const seen = new Set<string>();
  const { schedule, updateFromOutput } = Scheduler.prototype;
  jest.spyOn(Scheduler.prototype, 'schedule').mockImplementation(function (this: Scheduler) {
    const step = schedule.call(this);
    for (const { requestId } of step.newRequests) {
      if (!seen.has(requestId)) order.scheduled.push(numberOf(requestId));
      seen.add(requestId);
    }
    return step;
  });
  jest.spyOn(Scheduler.prototype, 'updateFromOutput').mockImplementation(function (this: Scheduler, ...args) {
    const outputs = updateFromOutput.apply(this, args);
    order.finished.push(...outputs.filter((o) => o.finishReason !== null).map((o) => numberOf(o.requestId)));
    return outputs;
  });
  return order;
}

afterEach(() => {
  jest.restoreAllMocks();
  expectNothingLeft();
});

async function withLLM(model: typeof TINY, args: Partial<EngineArgs>, use: (llm: LLM) => Promise<void>): Promise<void> {
  const llm = await open(model, args);
  try {
    await use(llm);
    expect(await llm.stats()).toMatchObject({ numRunning: 0, numWaiting: 0, kvCacheUsage: 0 });
  } finally {
    await llm.close();
  }
}

const count = (n: number): number[] => Array.from({ length: n }, (_, i) => i);

test(`${NUM_REQUESTS} queued requests of 16 + 16 tokens all finish, first come first served (${TINY.name})`, async () => {
  const order = watch();
  await withLLM(TINY, { maxNumSeqs: MAX_NUM_SEQS }, async (llm) => {
    const { vocabSize } = llm.config.model;
    const prompts = count(NUM_REQUESTS).map((i) => ({ promptTokenIds: randomPrompt(i, 16, vocabSize) }));
    let progress = 0;
    const outputs = await llm.generate(prompts, { temperature: 0, maxTokens: 16, ignoreEos: true }, {
      onProgress: (finished, total, outputTokens) => {
        if (total === NUM_REQUESTS && outputTokens === 16 * finished && finished === progress + 1) progress = finished;
      },
    });
    expect(progress).toBe(NUM_REQUESTS);
    const isRight = ({ promptTokenIds, outputs: [only] }: RequestOutput, i: number): boolean =>
      String(promptTokenIds) === String(prompts[i]!.promptTokenIds) && only!.finishReason === 'length' && only!.tokenIds.length === 16;
    expect(outputs.filter((output, i) => !isRight(output, i))).toEqual([]);
    expect(order.scheduled).toEqual(count(NUM_REQUESTS));
    expect(order.finished).toEqual(count(NUM_REQUESTS));
    // The queue changes nothing about a request: any of them alone gives the same.
    for (const i of [0, 257, 5000, NUM_REQUESTS - 1]) {
      const [alone] = await llm.generate(prompts[i]!, { temperature: 0, maxTokens: 16, ignoreEos: true });
      expect(outputs[i]!.outputs).toEqual(alone!.outputs);
    }
  });
}, 180_000);

describe.each([STORIES, TALES].map((model) => ({ model, name: model.name })))('$name', ({ model }) => {
  const run = model.missing ? test.skip : test;

  run.each([false, true])('requests of all lengths start in the order of arrival, also when some are preempted (asyncScheduling: %s)', async (asyncScheduling) => {
    const order = watch();
    const work = mixedWork(300, 512).map((w) => ({ ...w, params: { ...w.params, n: 1 } }));
    const numKvBlocks = Math.ceil(blocksFor(work.slice(0, 32)) / 3) + 1;
    await withLLM(model, { dtype: 'float32', maxNumSeqs: 32, maxNumBatchedTokens: 256, numKvBlocks, asyncScheduling }, async (llm) => {
      await runTogether(llm, work);
      expect((await llm.stats()).numPreemptions).toBeGreaterThan(0);
    });
    expect(order.scheduled).toEqual(count(work.length));
    expect(order.finished.slice().sort((a, b) => a - b)).toEqual(count(work.length));
  });
});
