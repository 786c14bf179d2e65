/** Ops that follow each other so that a backend may join them must give what they give one by one, bit for bit. */
import { siluAndMul } from '../../lib/ops/activation';
import { kvCacheWrite } from '../../lib/ops/cache';
import { fill } from '../../lib/ops/copy';
import { linear, linearInto, packLinear } from '../../lib/ops/gemm';
import { addRmsNorm, rmsNorm } from '../../lib/ops/norm';
import { normRope, rope, type HeadNorms } from '../../lib/ops/rope';
import { call } from '../../lib/ops/run';
import type { Tensor } from '../../lib/tensor/tensor';
import { narrow, reshape, split } from '../../lib/tensor/views';
import { PAGE_TOKENS } from './cases/cache';
import { FUSION_BLOCKS, GATED_CASES, GATED_OPS, ROPE_CACHE_CASES, type GatedCase, type RopeCacheCase } from './cases/fusion';
import { NORM_EPS } from './cases/norm';
import { normedHeads, ROPE_MAX_POSITION, ropeReference } from './cases/rope';
import { itOn, OpBench, randomValues, relativeL2, roundTo, TOLERANCE } from './harness';

/** What stands between the two ops: nothing, an op that has nothing to do with them, or waiting for the device. */
type Between = 'nothing' | 'an op' | 'a fence';
const BETWEEN: readonly Between[] = ['nothing', 'an op', 'a fence'];

async function pause(bench: OpBench, between: Between): Promise<void> {
  if (between === 'an op') bench.run(() => fill(bench.poisoned('float32', [3]), 1));
  if (between === 'a fence') await bench.device.synchronize();
}

/** Comparing element by element with toEqual is slow. */
function expectSameBits(actual: readonly Float64Array[], expected: readonly Float64Array[]): void {
  expect(actual.map((values) => values.length)).toEqual(expected.map((values) => values.length));
  actual.forEach((values, i) => expect([i, values.findIndex((v, j) => !Object.is(v, expected[i]![j]))]).toEqual([i, -1]));
}

interface RopeInputs {
  readonly qkv: Float64Array;
  readonly cosSin: Float64Array;
  readonly positions: readonly number[];
  /** Of the norms of query and key heads. */
  readonly weights: readonly [Float64Array, Float64Array];
}

function ropeInputs(c: RopeCacheCase): RopeInputs {
  const width = (c.numHeads + 2 * c.numKvHeads) * c.headDim;
  return {
    qkv: roundTo(c.dtype, randomValues(c.numTokens * width, 1)),
    cosSin: roundTo('float32', randomValues(ROPE_MAX_POSITION * c.rotaryDim, 2)),
    positions: c.slots.map((_, t) => (t * 7 + 3) % ROPE_MAX_POSITION),
    weights: [roundTo(c.dtype, randomValues(c.headDim, 3)), roundTo(c.dtype, randomValues(c.headDim, 4))],
  };
}

/** Rotates and stores; the merged rows and the cache afterwards. `values`: the head that is stored as value, v or k. */
async function ropeAndStore(c: RopeCacheCase, x: RopeInputs, between: Between, values: 'k' | 'v' = 'v'): Promise<[merged: Float64Array, cache: Float64Array]> {
  const bench = new OpBench();
  const sizes = [c.numHeads, c.numKvHeads, c.numKvHeads].map((heads) => heads * c.headDim);
  const merged = bench.float(c.dtype, [c.numTokens, sizes[0]! + 2 * sizes[1]!], x.qkv);
  const table = bench.float('float32', [ROPE_MAX_POSITION, c.rotaryDim], x.cosSin);
  const at = bench.ints('int32', [c.numTokens], x.positions);
  const slots = bench.ints('int64', [c.numTokens], c.slots);
  const cache = bench.float(c.dtype, [FUSION_BLOCKS, 2, c.numKvHeads, PAGE_TOKENS, c.headDim], new Float64Array(FUSION_BLOCKS * 2 * c.numKvHeads * PAGE_TOKENS * c.headDim));
  const [q, k, v] = bench.run(() =>
    split(merged, sizes).map((part, i) => reshape(part, [c.numTokens, i === 0 ? c.numHeads : c.numKvHeads, c.headDim])),
  ) as [Tensor, Tensor, Tensor];
  const [qWeight, kWeight] = [bench.float(c.dtype, [c.headDim], x.weights[0]), bench.float(c.dtype, [c.headDim], x.weights[1])];
  const norms: HeadNorms = { qWeight, kWeight, eps: NORM_EPS, gemma: false };
  bench.run(() => (c.norm ? normRope(at, q, k, norms, table, c.isNeox) : rope(at, q, k, table, c.isNeox)));
  await pause(bench, between);
  bench.run(() => kvCacheWrite(cache, k, values === 'k' ? k : v, slots));
  const result: [Float64Array, Float64Array] = [await bench.values(merged), await bench.values(cache)];
  await bench.close();
  return result;
}

describe('rope, then kvCacheWrite', () => {
  it.each(ROPE_CACHE_CASES.map((c) => [`${c.dtype} ${c.numHeads}/${c.numKvHeads}x${c.headDim} rotary ${c.rotaryDim}, ${c.numTokens} tokens${c.norm ? ', norms' : ''}`, c] as const))('%s', async (_name, c) => {
    const x = ropeInputs(c);
    const runs: [Float64Array, Float64Array][] = [];
    for (const between of BETWEEN) runs.push(await ropeAndStore(c, x, between));
    const [merged, cache] = runs[0]!;
    for (const run of runs) expectSameBits(run, runs[0]!);
    // Queries and keys are rotated in place, whoever stored them; every key of a slot is in the cache, and nothing else.
    const rotated = (c.numHeads + c.numKvHeads) * c.headDim;
    const width = rotated + c.numKvHeads * c.headDim;
    const columns = (values: Float64Array, from: number, to: number): Float64Array => values.filter((_, i) => i % width >= from && i % width < to);
    const queries = c.numHeads * c.headDim;
    for (const [from, to, weight] of [[0, queries, x.weights[0]], [queries, rotated, x.weights[1]]] as const) {
      const count = (to - from) / c.headDim;
      const heads = columns(x.qkv, from, to);
      const expected = ropeReference(c, c.norm ? normedHeads(c, heads, count, weight) : heads, count, x.positions, x.cosSin);
      expect(relativeL2(columns(merged, from, to), expected)).toBeLessThan(TOLERANCE[c.dtype]);
    }
    expectSameBits([columns(merged, rotated, width)], [columns(x.qkv, rotated, width)]);
    const stored = merged.filter((_, i) => i % width >= c.numHeads * c.headDim && c.slots[Math.floor(i / width)]! >= 0);
    expectSameBits([cache.filter((v) => v !== 0).sort()], [stored.filter((v) => v !== 0).sort()]);
  });

  it('stores rotated keys as values when they are the same tensor', async () => {
    const c = ROPE_CACHE_CASES.find((each) => each.dtype === 'bfloat16')!;
    const x = ropeInputs(c);
    const [joined, apart] = [await ropeAndStore(c, x, 'nothing', 'k'), await ropeAndStore(c, x, 'a fence', 'k')];
    expectSameBits(joined, apart);
  });

  // A kernel reports no errors: such a token is stored as it is.
  itOn('cuda').each([false, true])('stores a key whose position lies outside the table, norms %p', async (norm) => {
    const c = ROPE_CACHE_CASES.find((each) => each.dtype === 'bfloat16' && each.numTokens === 2 && each.norm === norm)!;
    const x = { ...ropeInputs(c), positions: [ROPE_MAX_POSITION, 3] };
    const [joined, apart] = [await ropeAndStore(c, x, 'nothing'), await ropeAndStore(c, x, 'a fence')];
    expectSameBits(joined, apart);
    expect(joined[0].slice(0, c.headDim)).toEqual(x.qkv.slice(0, c.headDim));
  });
});

async function projectAndActivate(c: GatedCase, between: Between): Promise<[merged: Float64Array, out: Float64Array]> {
  const bench = new OpBench();
  const [n, k] = [2 * c.size, c.inFeatures];
  const x = bench.float(c.dtype, [c.numTokens, k], randomValues(c.numTokens * k, 1));
  const weight = bench.float(c.dtype, [n, k], randomValues(n * k, 2, 3 / Math.sqrt(k)));
  const bias = c.bias ? bench.float(c.dtype, [n], randomValues(n, 3)) : null;
  if (c.packed) bench.run(() => packLinear(weight));
  const merged = bench.run(() => linear(x, weight, bias));
  await pause(bench, between);
  const out = bench.run(() => GATED_OPS[c.act](merged));
  const result: [Float64Array, Float64Array] = [await bench.values(merged), await bench.values(out)];
  await bench.close();
  return result;
}

describe('linear, then a gated activation', () => {
  it.each(GATED_CASES.map((c) => [JSON.stringify(c), c] as const))('%s', async (_name, c) => {
    const [joined, ...others] = [await projectAndActivate(c, 'nothing'), await projectAndActivate(c, 'an op'), await projectAndActivate(c, 'a fence')];
    for (const other of others) expectSameBits(other, joined);
    // The projection itself is stored too, and the activation is that of its rounded values.
    const bench = new OpBench();
    const merged = bench.float(c.dtype, [c.numTokens, 2 * c.size], joined[0]);
    expect(joined[1]).toEqual(await bench.values(bench.run(() => GATED_OPS[c.act](merged))));
    await bench.close();
  });

  it.each([0, 1, 2])('writes its result over the input of the projection, the projection or its bias: %d', async (which) => {
    const [size, k] = [128, 256];
    const results: Float64Array[] = [];
    for (const between of BETWEEN) {
      const bench = new OpBench();
      const x = bench.float('bfloat16', [1, k], randomValues(k, 1));
      const weight = bench.float('bfloat16', [2 * size, k], randomValues(2 * size * k, 2, 0.2));
      const bias = bench.float('bfloat16', [2 * size], randomValues(2 * size, 3));
      const merged = bench.poisoned('bfloat16', [1, 2 * size]);
      const out = bench.view([x, merged, bias][which]!, 0, [1, size], [size, 1]);
      bench.run(() => linearInto(merged, x, weight, bias));
      await pause(bench, between);
      bench.run(() => call('siluAndMul', out, merged));
      results.push(await bench.values(out));
      await bench.close();
    }
    expect(results[1]).toEqual(results[0]);
    expect(results[2]).toEqual(results[0]);
    expect(results[0]!.every(Number.isFinite)).toBe(true);
  });

  it('reads the input that it was given, although that is stored anew right after', async () => {
    const bench = new OpBench();
    const k = 64;
    const x = bench.float('bfloat16', [1, k], randomValues(k, 1));
    const weight = bench.float('bfloat16', [128, k], randomValues(128 * k, 2));
    const expected = await bench.values(bench.run(() => linear(x, weight)));
    const again = bench.run(() => linear(x, weight));
    x.write(new Uint16Array(k).fill(0x7fc0));
    expect(await bench.values(again)).toEqual(expected);
    await bench.close();
  });
});

const HIDDEN = 128;
const HEADS = 2;
const HEAD_DIM = 64;
const LAYERS = 6;

interface ChainWeights {
  readonly norm: Tensor;
  readonly qkv: Tensor;
  readonly o: Tensor;
  readonly gateUp: Tensor;
  readonly down: Tensor;
}

function chainWeights(bench: OpBench, seed: number): ChainWeights {
  const weight = (n: number, k: number, s: number): Tensor => {
    const tensor = bench.float('bfloat16', [n, k], randomValues(n * k, seed * 10 + s, 2 / Math.sqrt(k)));
    bench.run(() => packLinear(tensor));
    return tensor;
  };
  return {
    norm: bench.float('bfloat16', [HIDDEN], randomValues(HIDDEN, seed)),
    qkv: weight(3 * HEADS * HEAD_DIM, HIDDEN, 1),
    o: weight(HIDDEN, HEADS * HEAD_DIM, 2),
    gateUp: weight(4 * HIDDEN, HIDDEN, 3),
    down: weight(HIDDEN, 2 * HIDDEN, 4),
  };
}

/** The ops of a few decoder layers, one function each; what they leave behind is in `results`. */
function chain(bench: OpBench, numTokens: number): { steps: (() => void)[]; results: Tensor[] } {
  const results: Tensor[] = [];
  const steps: (() => void)[] = [];
  const layers = Array.from({ length: LAYERS }, (_, i) => chainWeights(bench, i + 1));
  const start = bench.float('bfloat16', [numTokens, HIDDEN], randomValues(numTokens * HIDDEN, 99));
  const table = bench.float('float32', [ROPE_MAX_POSITION, HEAD_DIM], randomValues(ROPE_MAX_POSITION * HEAD_DIM, 98));
  const at = bench.ints('int32', [numTokens], Array.from({ length: numTokens }, (_, t) => t + 5));
  const slots = bench.ints('int64', [numTokens], Array.from({ length: numTokens }, (_, t) => t));
  const ones = bench.float('bfloat16', [HIDDEN], new Float64Array(HIDDEN).fill(1));
  let hidden: Tensor;
  let residual: Tensor;
  let merged: Tensor;
  const zeros = (): Float64Array => new Float64Array(2 * HEADS * PAGE_TOKENS * HEAD_DIM);
  const heads = (part: number): Tensor => reshape(narrow(merged, 1, part * HEADS * HEAD_DIM, HEADS * HEAD_DIM), [numTokens, HEADS, HEAD_DIM]);
  const keep = (tensor: Tensor): Tensor => (results.push(tensor), tensor);
  steps.push(() => (residual = keep(rmsNorm(start, ones, 1e-5))), () => (hidden = rmsNorm(start, layers[0]!.norm, 1e-5)));
  for (const w of layers) {
    const cache = bench.float('bfloat16', [1, 2, HEADS, PAGE_TOKENS, HEAD_DIM], zeros());
    results.push(cache);
    steps.push(
      () => (merged = keep(linear(hidden, w.qkv))),
      () => rope(at, heads(0), heads(1), table, true),
      () => kvCacheWrite(cache, heads(1), heads(2), slots),
      () => (hidden = linear(narrow(merged, 1, HEADS * HEAD_DIM, HEADS * HEAD_DIM), w.o)),
      () => (hidden = addRmsNorm(hidden, residual, w.norm, 1e-5)),
      () => (hidden = keep(linear(hidden, w.gateUp))),
      () => (hidden = siluAndMul(hidden)),
      () => (hidden = linear(hidden, w.down)),
      () => (hidden = keep(addRmsNorm(hidden, residual, w.norm, 1e-5))),
    );
  }
  return { steps, results };
}

describe('a chain of decoder layers', () => {
  it.each([1, 2, 5])('gives the same bits as its ops with a fence after each: %d tokens', async (numTokens) => {
    const runs: Float64Array[][] = [];
    for (const fences of [false, true]) {
      const bench = new OpBench();
      const { steps, results } = chain(bench, numTokens);
      for (const step of steps) {
        bench.run(step);
        if (fences) await bench.device.synchronize();
      }
      runs.push(await Promise.all(results.map((tensor) => bench.values(tensor))));
      await bench.close();
    }
    expectSameBits(runs[0]!, runs[1]!);
    expect(runs[0]!.every((values) => values.every(Number.isFinite))).toBe(true);
  });
});
