import { StepBuilder } from '../../lib/core/step-builder';
import { range, request } from './fixtures/requests';

describe('StepBuilder', () => {
  it('keeps the budget, and gives it back for a request taken out', () => {
    const builder = new StepBuilder(10);
    const [a, b] = [request('a', range(4)), request('b', range(5))];
    builder.add(a, 4, [1], true);
    builder.add(b, 5, [2], true);
    expect(builder.budget).toBe(1);
    expect([builder.remove(a), builder.remove(a)]).toEqual([true, false]);
    expect(builder.budget).toBe(5);
    expect(builder.shares.map(({ request: r, scheduled }) => [r, scheduled.numScheduledTokens])).toEqual([[b, 5]]);
    expect(a.numComputedTokens).toBe(0);
  });

  it('builds the step in order and advances numComputedTokens', () => {
    const builder = new StepBuilder(100);
    const [a, b] = [request('a', range(4)), request('b', range(5))];
    a.appendOutputToken(9);
    a.numComputedTokens = 4;
    b.numPreemptions = 2;
    builder.add(a, 1, [], false);
    builder.add(b, 3, [7], true);
    expect(builder.build(['gone'])).toEqual({
      newRequests: [{ requestId: 'b', tokenIds: range(5), numPromptTokens: 5, samplingParams: b.samplingParams }],
      scheduled: [
        { requestId: 'a', numComputedTokens: 4, numScheduledTokens: 1, newBlockIds: [] },
        { requestId: 'b', numComputedTokens: 0, numScheduledTokens: 3, newBlockIds: [7] },
      ],
      totalNumScheduledTokens: 4,
      removedRequestIds: ['gone'],
    });
    expect(builder.shares).toMatchObject([{ numPreemptions: 0 }, { numPreemptions: 2 }]);
    expect(builder.shares.map((share) => share.request)).toEqual([a, b]);
    expect([a.numComputedTokens, b.numComputedTokens]).toEqual([5, 3]);
  });

  it('gives a resumed request its outputs too, in a copy that does not grow', () => {
    const a = request('a', range(4));
    a.appendOutputToken(9);
    const builder = new StepBuilder(100);
    builder.add(a, 5, [1], true);
    const data = builder.build([]).newRequests[0]!;
    a.appendOutputToken(8);
    expect([data.tokenIds, data.numPromptTokens]).toEqual([[0, 1, 2, 3, 9], 4]);
  });
});
