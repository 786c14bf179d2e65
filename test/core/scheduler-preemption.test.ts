import type { EngineCoreOutput } from '../../lib/core/types';
import type { Scheduler } from '../../lib/core/scheduler';
import { coreRequest, createScheduler, range, runStep, shares } from './fixtures/requests';
import { logprobsOf, nextToken, SimulatedWorker } from './fixtures/simulated-worker';

const VOCAB = 1000;
const worker = (numBlocks: number): SimulatedWorker => new SimulatedWorker({ numBlocks, blockSize: 4, vocabSize: VOCAB });

function greedy(prompt: number[], count: number): number[] {
  const tokens = prompt.slice();
  for (let i = 0; i < count; i++) tokens.push(nextToken(tokens, VOCAB, 0));
  return tokens.slice(prompt.length);
}

function runAll(scheduler: Scheduler, w: SimulatedWorker): Map<string, EngineCoreOutput[]> {
  const byId = new Map<string, EngineCoreOutput[]>();
  for (let i = 0; scheduler.hasUnfinishedRequests(); i++) {
    expect(i).toBeLessThan(1000);
    for (const output of runStep(scheduler, w).outputs) byId.set(output.requestId, [...(byId.get(output.requestId) ?? []), output]);
    scheduler.kvCache.pool.checkInvariants();
  }
  return byId;
}

describe('preemption', () => {
  it('takes the request admitted last, admits nobody in that step, and resumes at the front of the queue', () => {
    const scheduler = createScheduler({ numBlocks: 5, blockSize: 4 });
    const w = worker(5);
    scheduler.addRequest(coreRequest('a', range(8), { params: { maxTokens: 5 } }));
    scheduler.addRequest(coreRequest('b', range(7, 50), { params: { maxTokens: 5 } }));
    scheduler.addRequest(coreRequest('c', range(1, 90), { params: { maxTokens: 5 } }));
    expect(shares(runStep(scheduler, w).step)).toEqual([['a', 0, 8], ['b', 0, 7]]);
    const second = runStep(scheduler, w).step;
    expect(shares(second)).toEqual([['a', 8, 1]]);
    expect([second.removedRequestIds, second.newRequests]).toEqual([['b'], []]);
    expect([scheduler.numRunning, scheduler.numWaiting, scheduler.stats().numPreemptions]).toEqual([1, 2, 1]);
    expect(shares(runStep(scheduler, w).step)).toEqual([['a', 9, 1]]);
    const resumed = runAll(scheduler, w);
    expect(resumed.get('b')!.at(-1)!.finishReason).toBe('length');
  });

  it('admits nobody in a step that preempted, although a chunk would fit', () => {
    const scheduler = createScheduler({ numBlocks: 5, blockSize: 4, maxNumBatchedTokens: 5 });
    const w = worker(5);
    scheduler.addRequest(coreRequest('a', range(8)));
    scheduler.addRequest(coreRequest('b', range(7, 50)));
    const steps = range(3).map(() => runStep(scheduler, w).step);
    expect(steps.map(shares)).toEqual([[['a', 0, 5]], [['a', 5, 3], ['b', 0, 2]], [['a', 8, 1]]]);
    expect([steps[2]!.removedRequestIds, steps[2]!.newRequests]).toEqual([['b'], []]);
    expect(scheduler.kvCache.pool.numFreeBlocks).toBe(1);
  });

  it('gives the resumed request all its tokens, hits in the prefix cache, and the output it would have had', () => {
    const scheduler = createScheduler({ numBlocks: 6, blockSize: 4 });
    const w = worker(6);
    const [a, b] = [range(8), range(8, 50)];
    scheduler.addRequest(coreRequest('a', a, { params: { maxTokens: 6 } }));
    scheduler.addRequest(coreRequest('b', b, { params: { maxTokens: 6 } }));
    const got: Record<string, number[]> = { a: [], b: [] };
    let resumed: [number, number] | undefined;
    for (let i = 0; scheduler.hasUnfinishedRequests() && i < 50; i++) {
      const { step, outputs } = runStep(scheduler, w);
      for (const output of outputs) got[output.requestId]!.push(...output.newTokenIds);
      if (i === 0) continue;
      for (const data of step.newRequests) {
        expect(data).toMatchObject({ requestId: 'b', numPromptTokens: 8, tokenIds: [...b, ...got.b!.slice(0, data.tokenIds.length - 8)] });
        resumed = [data.tokenIds.length, step.scheduled.find((s) => s.requestId === 'b')!.numComputedTokens];
      }
    }
    // Its second block was evicted in the meantime.
    expect(resumed).toEqual([9, 4]);
    expect(got).toEqual({ a: greedy(a, 6), b: greedy(b, 6) });
    expect(scheduler.stats().numPreemptions).toBe(1);
  });

  it("takes the least important request under 'priority', even one scheduled a moment ago in the same step", () => {
    const scheduler = createScheduler({ numBlocks: 5, blockSize: 4, policy: 'priority' });
    const w = worker(5);
    scheduler.addRequest(coreRequest('low', range(7), { priority: 9, params: { maxTokens: 6 } }));
    runStep(scheduler, w);
    scheduler.addRequest(coreRequest('high', range(8, 50), { priority: 1, params: { maxTokens: 6 } }));
    expect(shares(runStep(scheduler, w).step)).toEqual([['low', 7, 1], ['high', 0, 8]]);
    // low stands first and takes its turn; high then needs a block, and low has to leave the step again.
    const step = runStep(scheduler, w).step;
    expect(shares(step)).toEqual([['high', 8, 1]]);
    expect(step.removedRequestIds).toEqual(['low']);
    const outputs = runAll(scheduler, w);
    const tokens = outputs.get('low')!.flatMap((o) => o.newTokenIds);
    expect(greedy(range(7), 6).slice(-tokens.length)).toEqual(tokens);
  });

  it('does not leave blocks in the prefix cache that a request taken out of the step would have written', () => {
    const scheduler = createScheduler({ numBlocks: 8, blockSize: 4, policy: 'priority', maxNumBatchedTokens: 14 });
    const w = worker(8);
    scheduler.addRequest(coreRequest('best', range(3), { priority: 0 }));
    scheduler.addRequest(coreRequest('worst', range(6, 50), { priority: 9 }));
    runStep(scheduler, w);
    scheduler.addRequest(coreRequest('middle', range(25, 100), { priority: 5 }));
    expect(shares(runStep(scheduler, w).step)).toEqual([['best', 3, 1], ['worst', 6, 1], ['middle', 0, 12]]);
    // 'worst' is to fill its second block in this step; then 'middle' needs three, takes it out, and has to go itself.
    const step = runStep(scheduler, w).step;
    expect(shares(step)).toEqual([['best', 4, 1]]);
    expect(step.removedRequestIds).toEqual(['worst', 'middle']);
    scheduler.abortRequests(['middle']);
    scheduler.addRequest(coreRequest('again', [...range(6, 50), ...greedy(range(6, 50), 2), 1], { priority: 1 }));
    const { outputs } = runStep(scheduler, w);
    expect(outputs.find((o) => o.requestId === 'again')!.numCachedTokens).toBe(4);
  });

  it('lets the others run when the request that needs a block gives way itself', () => {
    const scheduler = createScheduler({ numBlocks: 5, blockSize: 4, policy: 'priority' });
    const w = worker(5);
    scheduler.addRequest(coreRequest('low', range(8), { priority: 9, params: { maxTokens: 3 } }));
    scheduler.addRequest(coreRequest('high', range(6, 50), { priority: 1, params: { maxTokens: 3 } }));
    expect(shares(runStep(scheduler, w).step)).toEqual([['high', 0, 6], ['low', 0, 8]]);
    expect(shares(runStep(scheduler, w).step)).toEqual([['high', 6, 1]]);
    expect(runAll(scheduler, w).get('low')!.at(-1)!.finishReason).toBe('length');
  });

  it("ends a request with 'length' when it fills the whole pool", () => {
    const scheduler = createScheduler({ numBlocks: 4, blockSize: 4 });
    const w = worker(4);
    scheduler.addRequest(coreRequest('a', range(11), { params: { maxTokens: 100 } }));
    const outputs = runAll(scheduler, w).get('a')!;
    // 12 tokens have KV, and the one sampled after them needs none.
    expect(outputs.flatMap((o) => o.newTokenIds)).toEqual(greedy(range(11), 2));
    expect(outputs.at(-1)!.finishReason).toBe('length');
    expect(scheduler.stats().numPreemptions).toBe(0);
  });

  it('ends two such requests with the same lengths as one alone', () => {
    const scheduler = createScheduler({ numBlocks: 4, blockSize: 4 });
    const w = worker(4);
    const prompts: Record<string, number[]> = { a: range(3), b: range(3, 50) };
    for (const [id, prompt] of Object.entries(prompts)) scheduler.addRequest(coreRequest(id, prompt, { params: { maxTokens: 100 } }));
    const outputs = runAll(scheduler, w);
    for (const [id, prompt] of Object.entries(prompts)) {
      expect(outputs.get(id)!.flatMap((o) => o.newTokenIds)).toEqual(greedy(prompt, 10));
    }
    expect(scheduler.stats().numPreemptions).toBeGreaterThan(0);
  });

  it('reports each prompt logprob once, also when the prompt is computed again', () => {
    const scheduler = createScheduler({ numBlocks: 5, blockSize: 4 });
    const w = worker(5);
    scheduler.addRequest(coreRequest('a', range(8), { params: { maxTokens: 6 } }));
    scheduler.addRequest(coreRequest('b', range(7, 50), { params: { maxTokens: 6, promptLogprobs: 0 } }));
    const outputs = runAll(scheduler, w).get('b')!;
    expect(scheduler.stats().numPreemptions).toBeGreaterThan(0);
    expect(outputs.flatMap((o) => o.newPromptLogprobs ?? [])).toEqual(range(6, 51).map(logprobsOf));
    expect(outputs.flatMap((o) => o.newTokenIds)).toEqual(greedy(range(7, 50), 6));
  });

  it('drops the result of a request that was preempted while its step ran', () => {
    const scheduler = createScheduler({ numBlocks: 6, blockSize: 4, policy: 'priority', maxNumBatchedTokens: 8 });
    const w = worker(6);
    scheduler.addRequest(coreRequest('low', range(4, 50), { priority: 9, params: { maxTokens: 4 } }));
    const outputs = runStep(scheduler, w).outputs;
    scheduler.addRequest(coreRequest('high', range(14), { priority: 1, params: { maxTokens: 2 } }));
    const ahead = [0, 1].map(() => {
      const step = scheduler.schedule();
      return { step, out: w.run(step) };
    });
    expect(ahead.map(({ step }) => shares(step))).toEqual([[['low', 4, 1], ['high', 0, 7]], [['high', 7, 7]]]);
    expect(ahead[1]!.step.removedRequestIds).toEqual(['low']);
    expect(scheduler.updateFromOutput(ahead[0]!.step, ahead[0]!.out)).toEqual([]);
    outputs.push(...scheduler.updateFromOutput(ahead[1]!.step, ahead[1]!.out));
    outputs.push(...[...runAll(scheduler, w).values()].flat());
    expect(outputs.filter((o) => o.requestId === 'low').flatMap((o) => o.newTokenIds)).toEqual(greedy(range(4, 50), 4));
  });

  it('can abort a preempted request', () => {
    const scheduler = createScheduler({ numBlocks: 5, blockSize: 4 });
    const w = worker(5);
    scheduler.addRequest(coreRequest('a', range(8)));
    scheduler.addRequest(coreRequest('b', range(7, 50)));
    runStep(scheduler, w);
    expect(runStep(scheduler, w).step.removedRequestIds).toEqual(['b']);
    expect(scheduler.abortRequests(['b'])).toMatchObject([{ requestId: 'b', finishReason: 'abort' }]);
    expect(runStep(scheduler, w).step.removedRequestIds).toEqual([]);
    expect([scheduler.numRunning, scheduler.numWaiting]).toEqual([1, 0]);
  });
});
