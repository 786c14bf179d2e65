import { checkStop } from '../../lib/core/stop-check';
import type { ResolvedSamplingParams } from '../../lib/sampling/params';
import { request } from './fixtures/requests';

const check = (outputs: number[], params: Partial<ResolvedSamplingParams>, maxTotalTokens = 100) => {
  const r = request('a', [5, 6], { params });
  for (const token of outputs) r.appendOutputToken(token);
  return checkStop(r, maxTotalTokens);
};

describe('checkStop', () => {
  it('goes on while nothing ends the request', () => {
    expect(check([1], { eosTokenIds: [2], stopTokenIds: [3] })).toBeNull();
  });

  it("gives 'stop' without a reason for the model's end-of-sequence ids", () => {
    expect(check([1, 2], { eosTokenIds: [9, 2], stopTokenIds: [2] })).toEqual({ finishReason: 'stop', stopReason: null });
  });

  it("gives 'stop' with the id for stop token ids", () => {
    expect(check([3], { eosTokenIds: [2], stopTokenIds: [4, 3] })).toEqual({ finishReason: 'stop', stopReason: 3 });
  });

  it('looks at the last token only, and not at the prompt', () => {
    expect(check([3, 1], { stopTokenIds: [3] })).toBeNull();
    expect(check([1], { stopTokenIds: [5, 6] })).toBeNull();
  });

  it('lets nothing but length end a request below minTokens', () => {
    const params = { minTokens: 3, eosTokenIds: [2], stopTokenIds: [3] };
    expect(check([2], params)).toBeNull();
    expect(check([2, 3], params)).toBeNull();
    expect(check([2, 3, 2], params)).toEqual({ finishReason: 'stop', stopReason: null });
    expect(check([2, 2], params, 4)).toEqual({ finishReason: 'length', stopReason: null });
  });

  it("gives 'length' at maxTokens and at the limit of prompt and output together", () => {
    expect(check([1, 1], { maxTokens: 3 })).toBeNull();
    expect(check([1, 1, 1], { maxTokens: 3 })).toEqual({ finishReason: 'length', stopReason: null });
    expect(check([1, 1], { maxTokens: 50 }, 5)).toBeNull();
    expect(check([1, 1, 1], { maxTokens: 50 }, 5)).toEqual({ finishReason: 'length', stopReason: null });
  });

  it("prefers 'stop' when both apply", () => {
    expect(check([2], { maxTokens: 1, eosTokenIds: [2] })?.finishReason).toBe('stop');
  });
});
