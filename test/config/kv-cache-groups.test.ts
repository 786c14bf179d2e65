import { firstVisibleBlock, maxBlocksHeld } from '../../lib/config/kv-cache-groups';

describe('blocks that a window needs', () => {
  it.each([
    [null, 1000, 0],
    [16, 0, 0],
    [16, 30, 0], // sees 15..
    [16, 31, 1], // sees 16..
    [16, 47, 2],
    [1, 31, 1],
    [1, 32, 2], // sees only itself
    [4096, 4095, 0],
    [4096, 5000, 56],
  ])('window %p: the query at %d sees nothing before block %d', (window, query, block) => {
    expect(firstVisibleBlock(window, query, 16)).toBe(block);
  });

  it('at most: as many as the worst place of a step takes, and at the largest places exactly', () => {
    for (const window of [null, 1, 2, 3, 4, 5, 8, 9])
      for (const maxStep of [1, 2, 3, 7, 100])
        for (const blockSize of [1, 2, 4])
          for (const numTokens of [1, 2, 5, 12, 40]) {
            let worst = 0;
            for (let start = 0; start < numTokens; start++)
              for (let step = 1; step <= Math.min(maxStep, numTokens - start); step++)
                worst = Math.max(worst, Math.ceil((start + step) / blockSize) - firstVisibleBlock(window, start, blockSize));
            const held = maxBlocksHeld(window, numTokens, maxStep, blockSize);
            expect(held).toBeGreaterThanOrEqual(worst);
            expect(held).toBeLessThanOrEqual(worst + 1);
            if (numTokens === 40 && maxStep < 10) expect(held).toBe(worst);
          }
  });
});
