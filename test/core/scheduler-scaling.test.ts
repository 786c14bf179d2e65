import { FcfsQueue, PriorityQueue } from '../../lib/core/request-queue';
import type { SchedulerOutput } from '../../lib/core/types';
import { coreRequest, createScheduler, range } from './fixtures/requests';

const MAX_NUM_SEQS = 16;

/** Runs a step with a model that always gives token 1; cheap enough for long queues. */
function fakeStep(scheduler: ReturnType<typeof createScheduler>): SchedulerOutput {
  const step = scheduler.schedule();
  scheduler.updateFromOutput(step, {
    sampledTokenIds: step.scheduled.map(() => 1),
    logprobs: step.scheduled.map(() => null),
    promptLogprobs: new Map(),
    errors: new Map(),
  });
  return step;
}

/** Prototype methods of the waiting queue, counted. */
function countCalls(prototype: FcfsQueue | PriorityQueue): { calls: () => number } {
  const spies = (['add', 'prepend', 'peek', 'pop', 'remove'] as const).map((method) => jest.spyOn(prototype, method));
  const iteration = jest.spyOn(prototype, Symbol.iterator as never);
  return { calls: () => [...spies, iteration].reduce((sum, spy) => sum + spy.mock.calls.length, 0) };
}

describe('with 10,000 requests in the queue', () => {
  afterEach(() => jest.restoreAllMocks());

  it('keeps first come, first served, and touches the queue only for the requests it admits', () => {
    const scheduler = createScheduler({ maxNumSeqs: MAX_NUM_SEQS, enablePrefixCaching: false });
    for (let i = 0; i < 10_000; i++) scheduler.addRequest(coreRequest(`r${i}`, range(4, i), { params: { maxTokens: 1 + (i % 4) } }));
    const counter = countCalls(FcfsQueue.prototype);
    const admitted: string[] = [];
    let before = 0;
    while (scheduler.hasUnfinishedRequests()) {
      const step = fakeStep(scheduler);
      admitted.push(...step.newRequests.map((r) => r.requestId));
      const calls = counter.calls() - before;
      before = counter.calls();
      // peek, pop and the remove inside pop for each, and one peek that finds nothing more to admit.
      expect(calls).toBeLessThanOrEqual(3 * step.newRequests.length + 1);
    }
    expect(admitted).toEqual(range(10_000).map((i) => `r${i}`));
  });

  it("moves O(log n) requests per admission under 'priority', and admits in order", () => {
    const scheduler = createScheduler({ maxNumSeqs: MAX_NUM_SEQS, enablePrefixCaching: false, policy: 'priority' });
    const priorityOf = (i: number): number => (i * 7919) % 10_000;
    for (let i = 0; i < 10_000; i++) scheduler.addRequest(coreRequest(`p${priorityOf(i)}`, [1, 2, 3], { priority: priorityOf(i), params: { maxTokens: 2 } }));
    const moves = jest.spyOn(PriorityQueue.prototype as unknown as { put(): void }, 'put');
    const admitted: string[] = [];
    for (let i = 0; i < 1000; i++) {
      moves.mockClear();
      const step = fakeStep(scheduler);
      admitted.push(...step.newRequests.map((r) => r.requestId));
      // One path from the root to a leaf of 10,000, and the end of each sift.
      expect(moves.mock.calls.length).toBeLessThanOrEqual(17 * step.newRequests.length);
    }
    expect(admitted).toEqual(range(admitted.length).map((i) => `p${i}`));
    expect(admitted.length).toBe(8000);
  });

  it('aborts one of them without a search', () => {
    const scheduler = createScheduler({ maxNumSeqs: MAX_NUM_SEQS });
    for (let i = 0; i < 10_000; i++) scheduler.addRequest(coreRequest(`r${i}`, [1]));
    const counter = countCalls(FcfsQueue.prototype);
    expect(scheduler.abortRequests(range(5000, 2500).map((i) => `r${i}`))).toHaveLength(5000);
    expect(counter.calls()).toBe(5000);
    expect(scheduler.numWaiting).toBe(5000);
  });
});
