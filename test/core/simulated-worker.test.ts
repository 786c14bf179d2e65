import type { SchedulerOutput } from '../../lib/core/types';
import { range, samplingParams } from './fixtures/requests';
import { nextToken, SimulatedWorker } from './fixtures/simulated-worker';

const create = (): SimulatedWorker => new SimulatedWorker({ numBlocks: 5, blockSize: 2, vocabSize: 50 });

function step(requests: { id: string; tokenIds: number[]; computed: number; blocks: number[] }[]): SchedulerOutput {
  return {
    newRequests: requests.map((r) => ({ requestId: r.id, tokenIds: r.tokenIds, numPromptTokens: r.tokenIds.length, samplingParams: samplingParams() })),
    scheduled: requests.map((r) => ({ requestId: r.id, numComputedTokens: r.computed, numScheduledTokens: r.tokenIds.length - r.computed, newBlockIds: r.blocks })),
    totalNumScheduledTokens: requests.reduce((sum, r) => sum + r.tokenIds.length - r.computed, 0),
    removedRequestIds: [],
  };
}

// What the other tests rely on: the simulated worker notices wrong block tables.
describe('SimulatedWorker', () => {
  it('samples a function of the tokens, and reads shared blocks', async () => {
    const worker = create();
    expect(await worker.initialize()).toEqual({ numBlocks: 5 });
    const tokens = range(3);
    expect((await worker.executeModel(step([{ id: 'a', tokenIds: tokens, computed: 0, blocks: [1, 2] }]))).sampledTokenIds).toEqual([nextToken(tokens, 50, 0)]);
    const b = [0, 1, 9];
    expect(worker.run(step([{ id: 'b', tokenIds: b, computed: 2, blocks: [1, 3] }])).sampledTokenIds).toEqual([nextToken(b, 50, 0)]);
    await worker.shutdown();
    expect(worker.requests.size).toBe(0);
  });

  it.each([
    ['a block that holds another prefix', [{ id: 'b', tokenIds: [7, 1, 9], computed: 2, blocks: [1, 3] }]],
    ['a block that was never written', [{ id: 'b', tokenIds: [0, 1, 2, 3, 4], computed: 4, blocks: [1, 3, 4] }]],
    ['the null block', [{ id: 'b', tokenIds: [5], computed: 0, blocks: [0] }]],
    ['a missing block', [{ id: 'b', tokenIds: [5, 6, 7], computed: 0, blocks: [3] }]],
    ['two writers of a slot', [{ id: 'b', tokenIds: [5], computed: 0, blocks: [3] }, { id: 'c', tokenIds: [5], computed: 0, blocks: [3] }]],
    ['a request it knows', [{ id: 'a', tokenIds: [5], computed: 0, blocks: [3] }]],
  ])('throws for %s', (_, requests) => {
    const worker = create();
    worker.run(step([{ id: 'a', tokenIds: range(3), computed: 0, blocks: [1, 2] }]));
    expect(() => worker.run(step(requests))).toThrow(/^simulated worker: /);
  });

  it('throws for unknown requests', () => {
    const unknown = step([{ id: 'a', tokenIds: [1], computed: 0, blocks: [1] }]);
    expect(() => create().run({ ...unknown, newRequests: [] })).toThrow(/^simulated worker: /);
    expect(() => create().run({ ...step([]), removedRequestIds: ['a'] })).toThrow(/^simulated worker: /);
  });
});
