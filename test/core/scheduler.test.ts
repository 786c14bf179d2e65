import { coreRequest, createScheduler, range, runStep, shares } from './fixtures/requests';
import { SimulatedWorker } from './fixtures/simulated-worker';

const worker = (options: { numBlocks?: number; blockSize?: number } = {}): SimulatedWorker =>
  new SimulatedWorker({ numBlocks: 1001, blockSize: 16, vocabSize: 1000, ...options });
const code = (value: string) => expect.objectContaining({ code: value });

describe('Scheduler.schedule', () => {
  it('gives whole prompts, then one token a step', () => {
    const scheduler = createScheduler();
    const w = worker();
    scheduler.addRequest(coreRequest('a', range(20)));
    scheduler.addRequest(coreRequest('b', range(5, 100)));
    const first = runStep(scheduler, w).step;
    expect(shares(first)).toEqual([['a', 0, 20], ['b', 0, 5]]);
    expect(first.newRequests.map((r) => [r.requestId, r.numPromptTokens, r.tokenIds.length])).toEqual([['a', 20, 20], ['b', 5, 5]]);
    expect(first.scheduled.map((s) => s.newBlockIds)).toEqual([[1, 2], [3]]);
    expect(first.totalNumScheduledTokens).toBe(25);
    const second = runStep(scheduler, w).step;
    expect(shares(second)).toEqual([['a', 20, 1], ['b', 5, 1]]);
    expect(second.newRequests).toEqual([]);
    expect(second.scheduled.map((s) => s.newBlockIds)).toEqual([[], []]);
    expect([scheduler.numRunning, scheduler.numWaiting]).toEqual([2, 0]);
  });

  it('cuts prompts into chunks and serves running requests first', () => {
    const scheduler = createScheduler({ maxNumBatchedTokens: 10 });
    const w = worker();
    scheduler.addRequest(coreRequest('a', range(4)));
    scheduler.addRequest(coreRequest('b', range(25, 100)));
    const steps = range(5).map(() => shares(runStep(scheduler, w).step));
    expect(steps).toEqual([
      [['a', 0, 4], ['b', 0, 6]],
      [['a', 4, 1], ['b', 6, 9]],
      [['a', 5, 1], ['b', 15, 9]],
      [['a', 6, 1], ['b', 24, 1]],
      [['a', 7, 1], ['b', 25, 1]],
    ]);
  });

  it('admits prompts only whole without chunked prefill', () => {
    const scheduler = createScheduler({ maxNumBatchedTokens: 10, maxModelLen: 10, enableChunkedPrefill: false });
    const w = worker();
    scheduler.addRequest(coreRequest('a', range(6), { params: { maxTokens: 2 } }));
    scheduler.addRequest(coreRequest('b', range(9, 100)));
    scheduler.addRequest(coreRequest('c', range(2, 200)));
    expect(shares(runStep(scheduler, w).step)).toEqual([['a', 0, 6]]);
    // b fits beside one decoding token; c does not fit beside both.
    expect(shares(runStep(scheduler, w).step)).toEqual([['a', 6, 1], ['b', 0, 9]]);
    expect(shares(runStep(scheduler, w).step)).toEqual([['c', 0, 2]]);
  });

  it('keeps to maxNumSeqs and admits in order as places become free', () => {
    const scheduler = createScheduler({ maxNumSeqs: 2 });
    const w = worker();
    for (const [id, maxTokens] of [['a', 1], ['b', 3], ['c', 9]] as const) scheduler.addRequest(coreRequest(id, range(3), { params: { maxTokens } }));
    expect(runStep(scheduler, w).step.scheduled.map((s) => s.requestId)).toEqual(['a', 'b']);
    const second = runStep(scheduler, w).step;
    expect(second.scheduled.map((s) => s.requestId)).toEqual(['b', 'c']);
    expect(second.removedRequestIds).toEqual(['a']);
  });

  it('admits by priority, without pushing running requests aside', () => {
    const scheduler = createScheduler({ maxNumSeqs: 1, policy: 'priority' });
    const w = worker();
    scheduler.addRequest(coreRequest('low', range(3), { priority: 5, params: { maxTokens: 2 } }));
    expect(runStep(scheduler, w).step.scheduled.map((s) => s.requestId)).toEqual(['low']);
    scheduler.addRequest(coreRequest('later', range(3), { priority: 1, arrivalTime: 2, params: { maxTokens: 1 } }));
    scheduler.addRequest(coreRequest('sooner', range(3), { priority: 1, arrivalTime: 1, params: { maxTokens: 1 } }));
    const order = range(3).map(() => runStep(scheduler, w).step.scheduled.map((s) => s.requestId));
    expect(order).toEqual([['low'], ['sooner'], ['later']]);
  });

  it('uses the prefix cache, within one step too, and reports what was cached', () => {
    const scheduler = createScheduler();
    const w = worker();
    scheduler.addRequest(coreRequest('a', range(40), { params: { maxTokens: 1 } }));
    scheduler.addRequest(coreRequest('b', [...range(32), 7, 7], { params: { maxTokens: 1 } }));
    const { step, outputs } = runStep(scheduler, w);
    expect(shares(step)).toEqual([['a', 0, 40], ['b', 32, 2]]);
    expect(step.scheduled.map((s) => s.newBlockIds)).toEqual([[1, 2, 3], [1, 2, 4]]);
    expect(outputs.map((o) => o.numCachedTokens)).toEqual([0, 32]);
    expect(scheduler.stats()).toMatchObject({ prefixCacheQueries: 74, prefixCacheHits: 32 });
  });

  it('computes every prompt position when prompt logprobs are wanted', () => {
    const scheduler = createScheduler();
    const w = worker();
    scheduler.addRequest(coreRequest('a', range(40)));
    scheduler.addRequest(coreRequest('b', range(40), { params: { promptLogprobs: 0 } }));
    expect(shares(runStep(scheduler, w).step)).toEqual([['a', 0, 40], ['b', 0, 40]]);
    expect(scheduler.stats()).toMatchObject({ prefixCacheQueries: 40, prefixCacheHits: 0 });
  });

  it('can be ahead of the results: chunks go on, decodes wait for their token', () => {
    const scheduler = createScheduler({ maxNumBatchedTokens: 8 });
    const w = worker();
    scheduler.addRequest(coreRequest('a', range(3), { params: { maxTokens: 2 } }));
    scheduler.addRequest(coreRequest('b', range(12, 50), { params: { maxTokens: 2 } }));
    const first = scheduler.schedule();
    const firstOut = w.run(first);
    const second = scheduler.schedule();
    const secondOut = w.run(second);
    const third = scheduler.schedule();
    expect([shares(first), shares(second), shares(third)]).toEqual([[['a', 0, 3], ['b', 0, 5]], [['b', 5, 7]], []]);
    expect(scheduler.updateFromOutput(first, firstOut).map((o) => o.requestId)).toEqual(['a']);
    expect(scheduler.updateFromOutput(second, secondOut).map((o) => o.requestId)).toEqual(['b']);
    expect(shares(runStep(scheduler, w).step)).toEqual([['a', 3, 1], ['b', 12, 1]]);
    expect(scheduler.hasUnfinishedRequests()).toBe(false);
  });
});

describe('Scheduler.addRequest', () => {
  it('refuses prompts that leave no room for one token', () => {
    const scheduler = createScheduler({ numBlocks: 4, blockSize: 4, maxModelLen: 1000 });
    expect(() => scheduler.addRequest(coreRequest('a', range(12)))).toThrow(code('ERR_KVASIR_PROMPT_TOO_LONG'));
    scheduler.addRequest(coreRequest('b', range(11)));
    const short = createScheduler({ maxModelLen: 8 });
    expect(() => short.addRequest(coreRequest('a', range(8)))).toThrow(code('ERR_KVASIR_PROMPT_TOO_LONG'));
    short.addRequest(coreRequest('b', range(7)));
    expect([scheduler.numWaiting, short.numWaiting]).toEqual([1, 1]);
  });

  it('refuses empty prompts and ids in use', () => {
    const scheduler = createScheduler();
    expect(() => scheduler.addRequest(coreRequest('a', []))).toThrow(code('ERR_KVASIR_PROMPT'));
    scheduler.addRequest(coreRequest('a', [1]));
    expect(() => scheduler.addRequest(coreRequest('a', [1]))).toThrow(code('ERR_KVASIR_PARAMS'));
    scheduler.abortRequests(['a']);
    scheduler.addRequest(coreRequest('a', [1]));
    expect(scheduler.numWaiting).toBe(1);
  });
});

describe('Scheduler constructor', () => {
  it('refuses limits under which requests could not run', () => {
    const config = code('ERR_KVASIR_CONFIG');
    expect(() => createScheduler({ maxNumSeqs: 0 })).toThrow(config);
    expect(() => createScheduler({ maxNumBatchedTokens: 0 })).toThrow(config);
    expect(() => createScheduler({ maxModelLen: 0.5 })).toThrow(config);
    expect(() => createScheduler({ numBlocks: 1 })).toThrow(config);
    expect(() => createScheduler({ enableChunkedPrefill: false, maxNumBatchedTokens: 99, maxModelLen: 100 })).toThrow(config);
  });
});
