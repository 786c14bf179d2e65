import { fillRandom } from '../../lib/ops/copy';
import { embedding } from '../../lib/ops/embedding';
import { packLinear } from '../../lib/ops/gemm';
import { output } from '../../lib/ops/run';
import { narrow } from '../../lib/tensor/views';
import { randomReference } from './cases/copy';
import { EMBEDDING_CASES, embeddingIds, embeddingReference } from './cases/embedding';
import { itOn, OpBench, randomValues, roundTo } from './harness';

describe('embedding', () => {
  it.each(EMBEDDING_CASES.map((c) => [JSON.stringify(c), c] as const))('%s', async (_name, c) => {
    const bench = new OpBench();
    const weight = roundTo(c.dtype, randomValues(c.vocabSize * c.hiddenSize, 1));
    const out = bench.run(() => {
      const table = bench.float(c.dtype, [c.vocabSize, c.hiddenSize], weight);
      return embedding(table, bench.ints('int32', [c.numTokens], embeddingIds(c)), c.vocabStart, c.outDtype);
    });
    expect(await bench.values(out)).toEqual(embeddingReference(c, weight));
    await bench.close();
  });

  it.each(EMBEDDING_CASES.map((c) => [JSON.stringify(c), c] as const))('packed for linear layers: %s', async (_name, c) => {
    const bench = new OpBench();
    const weight = roundTo(c.dtype, randomValues(c.vocabSize * c.hiddenSize, 1));
    const out = bench.run(() => {
      const table = bench.float(c.dtype, [c.vocabSize, c.hiddenSize], weight);
      packLinear(table);
      expect(table.packed).toBe(true);
      return embedding(table, bench.ints('int32', [c.numTokens], embeddingIds(c)), c.vocabStart, c.outDtype);
    });
    expect(await bench.values(out)).toEqual(embeddingReference(c, weight));
    await bench.close();
  });

  it('reads a table whose rows lie apart', async () => {
    const bench = new OpBench();
    const wide = roundTo('bfloat16', randomValues(4 * 24, 2));
    const out = bench.run(() => embedding(narrow(bench.float('bfloat16', [4, 24], wide), 1, 8, 8), bench.ints('int32', [1], [2])));
    expect(await bench.values(out)).toEqual(wide.slice(2 * 24 + 8, 2 * 24 + 16));
    await bench.close();
  });

  itOn('cuda')('reaches rows beyond 2^31 elements', async () => {
    const bench = new OpBench();
    const [vocabSize, hiddenSize] = [300_000, 8192];
    const row = vocabSize - 2;
    const table = bench.run(() => output([vocabSize, hiddenSize], 'bfloat16'));
    const out = bench.run(() => {
      fillRandom(table, 5, 1);
      return embedding(table, bench.ints('int32', [1], [row]));
    });
    const expected = Float64Array.from({ length: hiddenSize }, (_, i) => randomReference('bfloat16', 5n, BigInt(row) * BigInt(hiddenSize) + BigInt(i), 1));
    expect(await bench.values(out)).toEqual(expected);
    await bench.close();
  });

  it('rejects conversions other than to float32', async () => {
    const bench = new OpBench();
    const weight = bench.float('float32', [2, 4], randomValues(8, 1));
    const ids = bench.ints('int32', [1], [0]);
    expect(() => bench.run(() => embedding(weight, ids, 0, 'bfloat16'))).toThrow(expect.objectContaining({ code: 'ERR_KVASIR_TENSOR' }));
    await bench.close();
  });
});
