import type { ModelRunnerOutput, SchedulerOutput } from '../../lib/core/types';
import { coreRequest, createScheduler, range, runStep } from './fixtures/requests';
import { logprobsOf, nextToken, SimulatedWorker } from './fixtures/simulated-worker';

const VOCAB = 1000;
const worker = (): SimulatedWorker => new SimulatedWorker({ numBlocks: 1001, blockSize: 16, vocabSize: VOCAB });
const dead = expect.objectContaining({ code: 'ERR_KVASIR_ENGINE_DEAD' });

/** A result that gives each request of a step the token `tokens` says; none for those it leaves out. */
function result(step: SchedulerOutput, tokens: Record<string, number>): ModelRunnerOutput {
  return {
    sampledTokenIds: step.scheduled.map((s) => tokens[s.requestId] ?? -1),
    logprobs: step.scheduled.map(() => null),
    promptLogprobs: new Map(),
    errors: new Map(),
  };
}

describe('Scheduler.updateFromOutput', () => {
  it('reports tokens, then the end; the worker is told in the next step', () => {
    const scheduler = createScheduler();
    scheduler.addRequest(coreRequest('a', range(3), { params: { maxTokens: 9, eosTokenIds: [2], stopTokenIds: [8] } }));
    scheduler.addRequest(coreRequest('b', range(3), { params: { maxTokens: 9, eosTokenIds: [2], stopTokenIds: [8] } }));
    const first = scheduler.schedule();
    expect(scheduler.updateFromOutput(first, result(first, { a: 5, b: 6 }))).toEqual([
      { requestId: 'a', newTokenIds: [5], newLogprobs: null, newPromptLogprobs: null, finishReason: null, stopReason: null, numCachedTokens: 0 },
      { requestId: 'b', newTokenIds: [6], newLogprobs: null, newPromptLogprobs: null, finishReason: null, stopReason: null, numCachedTokens: 0 },
    ]);
    const second = scheduler.schedule();
    const ends = scheduler.updateFromOutput(second, result(second, { a: 2, b: 8 }));
    expect(ends.map((o) => [o.requestId, o.newTokenIds, o.finishReason, o.stopReason])).toEqual([['a', [2], 'stop', null], ['b', [8], 'stop', 8]]);
    expect([scheduler.hasUnfinishedRequests(), scheduler.hasRemovedRequests(), scheduler.stats().kvCacheUsage]).toEqual([false, true, 0]);
    expect(scheduler.schedule()).toEqual({ newRequests: [], scheduled: [], totalNumScheduledTokens: 0, removedRequestIds: ['a', 'b'] });
    expect(scheduler.hasRemovedRequests()).toBe(false);
  });

  it("ends with 'length' at maxModelLen", () => {
    const scheduler = createScheduler({ maxModelLen: 6 });
    const w = worker();
    scheduler.addRequest(coreRequest('a', range(3), { params: { maxTokens: 100 } }));
    expect(range(3).map(() => runStep(scheduler, w).outputs[0]!.finishReason)).toEqual([null, null, 'length']);
  });

  it('passes logprobs on where they were asked for', () => {
    const scheduler = createScheduler();
    const w = worker();
    scheduler.addRequest(coreRequest('a', range(3), { params: { logprobs: 0 } }));
    scheduler.addRequest(coreRequest('b', range(4)));
    const { outputs } = runStep(scheduler, w);
    expect(outputs[0]!.newLogprobs).toEqual([logprobsOf(nextToken(range(3), VOCAB, 0))]);
    expect(outputs[1]!.newLogprobs).toBeNull();
  });

  it('passes prompt logprobs on chunk by chunk: one for each prompt token after the first', () => {
    const scheduler = createScheduler({ maxNumBatchedTokens: 4 });
    const w = worker();
    scheduler.addRequest(coreRequest('a', range(9, 30), { params: { promptLogprobs: 0, maxTokens: 2 } }));
    const parts = range(4).map(() => runStep(scheduler, w).outputs);
    expect(parts.map((p) => p.map((o) => [o.newPromptLogprobs?.length ?? null, o.newTokenIds.length]))).toEqual([[[4, 0]], [[4, 0]], [[null, 1]], [[null, 1]]]);
    expect(parts.flat().flatMap((o) => o.newPromptLogprobs ?? [])).toEqual(range(8, 31).map(logprobsOf));
  });

  it("ends a request with 'error', without its token, and withdraws its blocks from the prefix cache", () => {
    const scheduler = createScheduler();
    const w = worker();
    scheduler.addRequest(coreRequest('a', range(40)));
    w.failing.add('a');
    const [output] = runStep(scheduler, w).outputs;
    expect(output).toMatchObject({ requestId: 'a', newTokenIds: [], finishReason: 'error', error: 'NaN in the logits' });
    expect([scheduler.hasUnfinishedRequests(), scheduler.kvCache.pool.numCachedBlocks]).toEqual([false, 0]);
    scheduler.addRequest(coreRequest('b', range(40)));
    expect(runStep(scheduler, w).outputs[0]!.numCachedTokens).toBe(0);
  });

  it('refuses results that do not belong to the step', () => {
    const scheduler = createScheduler();
    scheduler.addRequest(coreRequest('a', range(3)));
    const step = scheduler.schedule();
    expect(() => scheduler.updateFromOutput({ ...step }, result(step, { a: 1 }))).toThrow(dead);
    scheduler.updateFromOutput(step, result(step, { a: 1 }));
    expect(() => scheduler.updateFromOutput(step, result(step, { a: 1 }))).toThrow(dead);
    const short = scheduler.schedule();
    expect(() => scheduler.updateFromOutput(short, { ...result(short, {}), sampledTokenIds: [] })).toThrow(dead);
  });

  it('refuses a missing token and a token in the middle of a prompt', () => {
    const scheduler = createScheduler({ maxNumBatchedTokens: 2 });
    scheduler.addRequest(coreRequest('a', range(4)));
    const chunk = scheduler.schedule();
    expect(() => scheduler.updateFromOutput(chunk, result(chunk, { a: 1 }))).toThrow(dead);
    const last = scheduler.schedule();
    expect(() => scheduler.updateFromOutput(last, result(last, {}))).toThrow(dead);
  });
});

describe('Scheduler.abortRequests', () => {
  it('ends waiting and running requests and frees their blocks', () => {
    const scheduler = createScheduler({ maxNumSeqs: 1 });
    const w = worker();
    scheduler.addRequest(coreRequest('a', range(20)));
    scheduler.addRequest(coreRequest('b', range(20)));
    runStep(scheduler, w);
    const outputs = scheduler.abortRequests(['b', 'nobody', 'a', 'a']);
    expect(outputs.map((o) => [o.requestId, o.finishReason, o.newTokenIds])).toEqual([['b', 'abort', []], ['a', 'abort', []]]);
    expect(scheduler.stats()).toMatchObject({ numRunning: 0, numWaiting: 0, kvCacheUsage: 0 });
    // The worker never saw b.
    expect(runStep(scheduler, w).step.removedRequestIds).toEqual(['a']);
    expect(w.requests.size).toBe(0);
  });

  it('drops the result of a request aborted while its step ran', () => {
    const scheduler = createScheduler();
    const w = worker();
    scheduler.addRequest(coreRequest('a', range(20)));
    scheduler.addRequest(coreRequest('b', range(5)));
    const step = scheduler.schedule();
    scheduler.abortRequests(['a']);
    expect(scheduler.updateFromOutput(step, w.run(step)).map((o) => o.requestId)).toEqual(['b']);
    scheduler.kvCache.pool.checkInvariants();
    expect(runStep(scheduler, w).step.removedRequestIds).toEqual(['a']);
  });

  it('does not give that result to a new request of the same id', () => {
    const scheduler = createScheduler();
    const w = worker();
    scheduler.addRequest(coreRequest('a', range(4)));
    const step = scheduler.schedule();
    scheduler.abortRequests(['a']);
    scheduler.addRequest(coreRequest('a', range(6, 50)));
    expect(scheduler.updateFromOutput(step, w.run(step))).toEqual([]);
    const next = runStep(scheduler, w);
    expect([next.step.removedRequestIds, next.step.newRequests.map((r) => r.requestId)]).toEqual([['a'], ['a']]);
    expect(next.outputs[0]!.newTokenIds).toEqual([nextToken(range(6, 50), VOCAB, 0)]);
  });
});

describe('Scheduler.resetPrefixCache', () => {
  it('works only while nothing runs', () => {
    const scheduler = createScheduler();
    const w = worker();
    scheduler.addRequest(coreRequest('a', range(40), { params: { maxTokens: 2 } }));
    runStep(scheduler, w);
    expect(scheduler.resetPrefixCache()).toBe(false);
    runStep(scheduler, w);
    expect(scheduler.resetPrefixCache()).toBe(true);
    scheduler.addRequest(coreRequest('b', range(40)));
    expect(runStep(scheduler, w).outputs[0]!.numCachedTokens).toBe(0);
  });
});
