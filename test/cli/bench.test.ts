import { latencyFigures, median, randomPrompts } from '../../lib/cli/bench';
import { formatBytes, formatNumber } from '../../lib/cli/io';

describe('figures of a benchmark', () => {
  test('prefill and decoding are told apart', () => {
    const figures = latencyFigures({ batchSize: 4, inputLen: 100, outputLen: 11 }, [0.5, 0.4, 0.9], [1.5, 2.5, 1.4]);
    expect(figures).toMatchObject({ prefillSeconds: 0.5, totalSeconds: 1.5, decodeSeconds: 1, prefillTokensPerSecond: 800, decodeTokensPerSecond: 40, numIters: 3 });
    expect(figures.secondsPerDecodeStep).toBeCloseTo(0.1);
  });

  test('a total below the prefill gives no rate rather than a negative one', () => {
    expect(latencyFigures({ batchSize: 1, inputLen: 1, outputLen: 2 }, [1], [0.9])).toMatchObject({ decodeSeconds: 0, decodeTokensPerSecond: null });
  });

  test.each([[[3], 3], [[1, 9, 2], 2], [[4, 1, 3, 2], 2.5]])('the median of %j is %d', (values, expected) => {
    expect(median(values)).toBe(expected);
  });

  test('prompts are the same for the same seed, differ from each other and stay in the vocabulary', () => {
    const prompts = randomPrompts(3, 50, 7, 1);
    expect(prompts).toEqual(randomPrompts(3, 50, 7, 1));
    expect(prompts).not.toEqual(randomPrompts(3, 50, 7, 2));
    expect(prompts[0]).not.toEqual(prompts[1]);
    const ids = prompts.flatMap((prompt) => prompt.promptTokenIds);
    expect(ids).toHaveLength(150);
    expect(new Set(ids)).toEqual(new Set([0, 1, 2, 3, 4, 5, 6]));
  });

  test('numbers are readable', () => {
    expect([formatNumber(1234.5), formatNumber(12.345), formatNumber(0.0012345)]).toEqual(['1235', '12.3', '0.00123']);
    expect([formatBytes(0), formatBytes(1536), formatBytes(4 * 2 ** 30)]).toEqual(['0 B', '1.5 KiB', '4 GiB']);
  });
});
