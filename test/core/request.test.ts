import { BlockHasher } from '../../lib/core/block-hash';
import { range, request } from './fixtures/requests';

describe('Request', () => {
  it('counts prompt and output tokens and leaves the prompt alone', () => {
    const prompt = Object.freeze(range(3));
    const r = request('a', prompt);
    r.appendOutputToken(7);
    r.appendOutputToken(8);
    expect([r.numTokens, r.numPromptTokens, r.numOutputTokens, r.lastTokenId]).toEqual([5, 3, 2, 8]);
    expect(r.tokenIds).toEqual([0, 1, 2, 7, 8]);
    expect(prompt).toEqual([0, 1, 2]);
    expect([r.status, r.isFinished, r.cacheSalt, r.numCachedTokens]).toEqual(['waiting', false, null, null]);
  });

  it('hashes each block once', () => {
    let calls = 0;
    const hasher = new BlockHasher(2, () => `h${calls++}`);
    const r = request('a', range(5));
    r.updateBlockHashes(hasher);
    r.updateBlockHashes(hasher);
    expect(r.blockHashes).toEqual(['h0', 'h1']);
    r.appendOutputToken(9);
    r.updateBlockHashes(hasher);
    expect(r.blockHashes).toEqual(['h0', 'h1', 'h2']);
  });
});
