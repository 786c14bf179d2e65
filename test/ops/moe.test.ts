import { siluAndMul } from '../../lib/ops/activation';
import { PACK_ROWS } from '../../lib/ops/gemm';
import { moeAlign, moeBlocksShape, moeCombine, moeLinear, moeRouting, packExperts } from '../../lib/ops/moe';
import { call } from '../../lib/ops/run';
import type { Tensor } from '../../lib/tensor/tensor';
import { narrow } from '../../lib/tensor/views';
import { Workspace } from '../../lib/tensor/workspace';
import { MOE_LINEAR_CASES, moeLinearReference, ROUTING_CASES, routingReference, spreadExperts, type MoeLinearCase } from './cases/moe';
import { encode, forEachIsa, itOn, OpBench, randomValues, relativeL2, roundTo, TOLERANCE, type FloatType } from './harness';

const DTYPES = ['float32', 'float16', 'bfloat16'] as const;

interface Weights {
  readonly shape: readonly number[];
  readonly bits: NodeJS.TypedArray;
  readonly packed: boolean;
}

/** Weights [numExperts, n, k], those to be packed with zero rows added to every expert. Encoding in JavaScript is slow: once per case. */
function expertWeights(dtype: FloatType, numExperts: number, n: number, k: number, values: Float64Array, packed: boolean): Weights {
  const rows = packed ? Math.ceil(n / PACK_ROWS) * PACK_ROWS : n;
  const padded = new Float64Array(numExperts * rows * k);
  for (let e = 0; e < numExperts; e++) padded.set(values.subarray(e * n * k, (e + 1) * n * k), e * rows * k);
  return { shape: [numExperts, rows, k], bits: encode(dtype, padded), packed };
}

function weightTensor(bench: OpBench, dtype: FloatType, { shape, bits, packed }: Weights): Tensor {
  const tensor = bench.poisoned(dtype, shape);
  tensor.write(bits);
  if (packed) bench.run(() => packExperts(tensor));
  return tensor;
}

/** values [m, k] with `gap` columns of NaN after each row. */
function withGaps(values: Float64Array, m: number, k: number, gap: number): Float64Array {
  const wide = new Float64Array(m * (k + gap)).fill(NaN);
  for (let i = 0; i < m; i++) wide.set(values.subarray(i * k, (i + 1) * k), i * (k + gap));
  return wide;
}

/** Of an array [m, width], the first n columns. */
const columns = (all: Float64Array, width: number, n: number): Float64Array => all.filter((_, i) => i % width < n);

describe('moeRouting', () => {
  it.each(ROUTING_CASES.map((c) => [JSON.stringify(c), c] as const))('%s', async (_name, c) => {
    const values = roundTo(c.dtype, randomValues(c.numTokens * c.numExperts, 1, 3));
    const expected = routingReference(c, values);
    await forEachIsa(async () => {
      const bench = new OpBench();
      const wide = bench.float(c.dtype, [c.numTokens, c.numExperts + 3], withGaps(values, c.numTokens, c.numExperts, 3));
      const { weights, experts } = bench.run(() => moeRouting(narrow(wide, 1, 0, c.numExperts), c.topK, c.renormalize));
      expect(Array.from(await bench.values(experts))).toEqual(expected.experts);
      expect(relativeL2(await bench.values(weights), Float64Array.from(expected.weights))).toBeLessThan(1e-6);
      await bench.close();
    });
  });

  it('prefers the lower index among equals, zeros of either sign included', async () => {
    const bench = new OpBench();
    const logits = bench.float('float32', [3, 6], Float64Array.from([1, 2, 2, 1, 2, 0, 0, 0, 0, 0, 0, 0, -1, -0, 0, -0, 0, -2]));
    const { experts } = bench.run(() => moeRouting(logits, 4, true));
    expect(Array.from(await bench.values(experts))).toEqual([1, 2, 4, 0, 0, 1, 2, 3, 1, 2, 3, 4]);
    await bench.close();
  });

  it('gives distinct experts in range for NaN and infinities', async () => {
    const bench = new OpBench();
    const rows = [[NaN, NaN, NaN, NaN], [1, NaN, 2, 3], [-Infinity, -Infinity, -Infinity, -Infinity], [Infinity, Infinity, 0, NaN]];
    const { weights, experts } = bench.run(() => moeRouting(bench.float('float32', [4, 4], Float64Array.from(rows.flat())), 3, true));
    const ids = Array.from(await bench.values(experts));
    for (let t = 0; t < 4; t++) {
      const row = ids.slice(t * 3, t * 3 + 3);
      expect([new Set(row).size, row.every((e) => e >= 0 && e < 4)]).toEqual([3, true]);
    }
    // NaN must reach the output, where it is reported.
    expect(Array.from((await bench.values(weights)).slice(0, 6)).every(Number.isNaN)).toBe(true);
    await bench.close();
  });
});

describe('moeAlign', () => {
  it.each([[1, 8, 2], [9, 8, 2], [40, 4, 2], [33, 128, 8], [700, 6, 2], [600, 1024, 8]] as const)('%i tokens, %i experts, top %i', async (numTokens, numExperts, topK) => {
    const bench = new OpBench();
    for (const spread of ['even', 'skewed', 'partial'] as const) {
      const ids = spreadExperts({ numTokens, numExperts, topK, spread });
      const blocks = bench.run(() => moeAlign(bench.ints('int32', [numTokens, topK], ids), numExperts));
      const [numBlocks, width] = blocks.shape as [number, number];
      const flat = Array.from(await bench.values(blocks));
      const rows = Array.from({ length: numBlocks }, (_, b) => flat.slice(b * width, (b + 1) * width));
      const used = rows.filter(([expert]) => expert !== -1);
      // Experts ascend, the blocks of one are full but for the last, and every pair with an expert is there once.
      expect(rows.slice(used.length).flat().every((v) => v === -1)).toBe(true);
      expect(used.map(([e]) => e!)).toEqual(used.map(([e]) => e!).sort((a, b) => a - b));
      const found = new Map<number, number>();
      used.forEach(([expert, ...pairs], b) => {
        const count = pairs.filter((p) => p >= 0).length;
        expect(pairs.slice(count).every((p) => p === -1)).toBe(true);
        expect(count > 0 && (count === width - 1 || used[b + 1]?.[0] !== expert)).toBe(true);
        for (const p of pairs.slice(0, count)) found.set(p, expert!);
      });
      const wanted = ids.flatMap((e, p) => (e >= 0 && e < numExperts ? [[p, e] as [number, number]] : []));
      expect([...found].sort(([a], [b]) => a - b)).toEqual(wanted);
    }
    await bench.close();
  });

  it('needs no more memory for fewer pairs: a plan for the largest batch holds for all', () => {
    for (const numExperts of [1, 2, 8, 60, 128, 512])
      for (let pairs = 1, last = 0; pairs < 300 * numExperts; pairs += 1 + Math.floor(numExperts / 8)) {
        const [numBlocks, width] = moeBlocksShape(pairs, numExperts);
        expect(numBlocks * width).toBeGreaterThanOrEqual(last);
        last = numBlocks * width;
      }
  });
});

async function checkLinear(c: MoeLinearCase, x: Float64Array, weights: Weights, expected: Float64Array): Promise<void> {
  const bench = new OpBench();
  const experts = spreadExperts(c);
  const gap = !c.strided ? 0 : c.n % 8 === 0 && c.k % 8 === 0 ? 8 : 6;
  const rows = c.perPair ? experts.length : c.numTokens;
  const wt = weightTensor(bench, c.dtype, weights);
  const wideX = bench.float(c.dtype, [rows, c.k + gap], withGaps(x, rows, c.k, gap));
  const wideOut = bench.poisoned(c.dtype, [experts.length, c.n + gap]);
  bench.run(() => {
    const blocks = moeAlign(bench.ints('int32', [c.numTokens, c.topK], experts), c.numExperts);
    call('moeLinear', narrow(wideOut, 1, 0, c.n), narrow(wideX, 1, 0, c.k), wt, blocks);
  });
  const all = await bench.values(wideOut);
  const actual = columns(all, c.n + gap, c.n);
  // Rows of pairs without an expert, and what lies between rows, stay.
  expect(actual.map((v) => Number(Number.isNaN(v)))).toEqual(expected.map((v) => Number(Number.isNaN(v))));
  expect(all.filter((v, i) => i % (c.n + gap) >= c.n && !Number.isNaN(v))).toHaveLength(0);
  const numbers = (values: Float64Array): Float64Array => values.filter((v) => !Number.isNaN(v));
  expect(relativeL2(numbers(actual), numbers(expected))).toBeLessThan(TOLERANCE[c.dtype]);
  await bench.close();
}

describe('moeLinear', () => {
  it.each(MOE_LINEAR_CASES.map((c) => [JSON.stringify(c), c] as const))('%s', async (_name, c) => {
    const x = roundTo(c.dtype, randomValues((c.perPair ? c.numTokens * c.topK : c.numTokens) * c.k, 1));
    const weights = roundTo(c.dtype, randomValues(c.numExperts * c.n * c.k, 2));
    const expected = moeLinearReference(c, spreadExperts(c), x, weights);
    const encoded = expertWeights(c.dtype, c.numExperts, c.n, c.k, weights, c.packed);
    await forEachIsa(() => checkLinear(c, x, encoded, expected));
  });

  it.each(DTYPES)('a pair has the same result bit for bit whatever else is in the batch: %s', async (dtype) => {
    const [numTokens, numExperts, topK, n, k] = [400, 4, 2, 72, 1088];
    const xs = randomValues(numTokens * k, 1);
    const weights = expertWeights(dtype, numExperts, n, k, randomValues(numExperts * n * k, 2), true);
    const ids = spreadExperts({ numTokens, numExperts, topK, spread: 'even' });
    await forEachIsa(async (isa) => {
      const bench = new OpBench();
      const wt = weightTensor(bench, dtype, weights);
      const x = bench.float(dtype, [numTokens, k], xs);
      const run = (start: number, count: number): Promise<Float64Array> => {
        const experts = bench.ints('int32', [count, topK], ids.slice(start * topK, (start + count) * topK));
        return bench.values(bench.run(() => moeLinear(narrow(x, 0, start, count), wt, moeAlign(experts, numExperts), count * topK, n)));
      };
      const whole = await run(0, numTokens);
      for (const [start, count] of [[0, 1], [399, 1], [17, 5], [100, 40], [250, 120]] as const)
        expect([isa, start, Array.from(await run(start, count))]).toEqual([isa, start, Array.from(whole.slice(start * topK * n, (start + count) * topK * n))]);
      await bench.close();
    });
  });

  it('names what does not agree', async () => {
    const bench = new OpBench();
    const zeros = (dtype: FloatType, shape: number[]): Tensor => bench.float(dtype, shape, new Float64Array(shape.reduce((a, b) => a * b)));
    const blocks = bench.ints('int32', [2, 17], new Array<number>(34).fill(-1));
    const x = zeros('bfloat16', [2, 8]);
    const error = (text: string): Error => expect.objectContaining({ code: 'ERR_KVASIR_TENSOR', message: expect.stringContaining(text) }) as Error;
    const run = (weights: Tensor, pairs: number, features?: number): (() => unknown) => () => bench.run(() => moeLinear(x, weights, blocks, pairs, features));
    expect(run(zeros('bfloat16', [2, 64, 6]), 4)).toThrow(error('weights has inFeatures 6, expected 8'));
    expect(run(zeros('float32', [2, 64, 8]), 4)).toThrow(error('weights is float32 but x is bfloat16'));
    expect(run(zeros('bfloat16', [2, 64, 8]), 3)).toThrow(error('a multiple of those of x'));
    expect(run(zeros('bfloat16', [2, 64, 8]), 4, 65)).toThrow(error('more columns than the weight of an expert has rows'));
    expect(() => bench.run(() => call('moeAlign', bench.ints('int32', [1, 17], new Array<number>(17).fill(0)), bench.ints('int32', [2, 2], [0, 1, 0, 1]), 2))).toThrow(error('every way to spread'));
    expect(() => bench.run(() => moeRouting(x, 9, false))).toThrow(error('topK must be at most the number of experts'));
    expect(() => bench.run(() => packExperts(zeros('bfloat16', [2, 60, 8])))).toThrow(error('a multiple of 64 rows'));
    await bench.close();
  });
});

describe('moeCombine', () => {
  it.each(DTYPES)('weighs the choices of each token and leaves out those without an expert: %s', async (dtype) => {
    const [numTokens, topK, hidden, numExperts] = [5, 3, 1031, 4];
    const ids = spreadExperts({ numTokens, topK, numExperts, spread: 'partial' });
    const x = roundTo(dtype, randomValues(numTokens * topK * hidden, 1));
    const w = roundTo('float32', randomValues(numTokens * topK, 2));
    const known = (p: number): boolean => ids[p]! >= 0 && ids[p]! < numExperts;
    const rows = x.map((v, i) => (known(Math.floor(i / hidden)) ? v : NaN));
    const expected = new Float64Array(numTokens * hidden);
    x.forEach((v, i) => {
      const pair = Math.floor(i / hidden);
      if (known(pair)) expected[Math.floor(pair / topK) * hidden + (i % hidden)]! += w[pair]! * v;
    });
    await forEachIsa(async () => {
      const bench = new OpBench();
      const wide = bench.float(dtype, [numTokens * topK, hidden + 5], withGaps(rows, numTokens * topK, hidden, 5));
      const routing = { weights: bench.float('float32', [numTokens, topK], w), experts: bench.ints('int32', [numTokens, topK], ids) };
      const out = bench.run(() => moeCombine(narrow(wide, 1, 0, hidden), routing, numExperts));
      expect(relativeL2(await bench.values(out), expected)).toBeLessThan(TOLERANCE[dtype]);
      await bench.close();
    });
  });
});

describe('the ops of a layer together', () => {
  itOn('cuda').each(DTYPES)('give the same result from a graph as from calls, for other counts of pairs too: %s', async (dtype) => {
    const [numTokens, numExperts, topK, hidden, width] = [24, 8, 2, 64, 128];
    const bench = new OpBench();
    const random = (n: number, k: number, seed: number): Weights => expertWeights(dtype, numExperts, n, k, randomValues(numExperts * n * k, seed, 0.1), true);
    const w13 = weightTensor(bench, dtype, random(2 * width, hidden, 1));
    const w2 = weightTensor(bench, dtype, random(hidden, width, 2));
    const x = bench.float(dtype, [numTokens, hidden], randomValues(numTokens * hidden, 3));
    const logits = bench.float(dtype, [numTokens, numExperts], new Float64Array(numTokens * numExperts));
    const layer = (): Tensor => {
      const routing = moeRouting(logits, topK, true);
      const blocks = moeAlign(routing.experts, numExperts);
      const y = siluAndMul(moeLinear(x, w13, blocks, numTokens * topK));
      return moeCombine(moeLinear(y, w2, blocks, numTokens * topK), routing, numExperts);
    };
    const workspace = new Workspace();
    workspace.plan(() => [layer()]);
    workspace.materialize(bench.device);
    workspace.run(layer);
    await bench.device.synchronize();
    bench.device.beginCapture();
    const out = workspace.run(layer);
    const graph = bench.device.endCapture();
    for (const seed of [4, 5, 6]) {
      logits.write(encode(dtype, randomValues(numTokens * numExperts, seed, seed === 6 ? 0 : 3)));
      bench.device.launchGraph(graph);
      const fromGraph = await bench.values(out);
      workspace.run(layer);
      expect(fromGraph).toEqual(await bench.values(out));
    }
    workspace.dispose();
    bench.device.destroyGraph(graph);
    await bench.close();
  });
});
