import type { PagedSequences } from '../../lib/ops/attention';
import { kvCacheWrite, NO_SCALES } from '../../lib/ops/cache';
import { call } from '../../lib/ops/run';
import type { Tensor } from '../../lib/tensor/tensor';
import { narrow, reshape } from '../../lib/tensor/views';
import { ATTENTION_CASES, attentionReference, firstKey, scaleOf, type AttentionCase, type AttentionInputs } from './cases/attention';
import { encode, forEachIsa, itOn, OpBench, randomValues, relativeL2, roundTo, throughFp8, TOLERANCE } from './harness';

const PAGE = 16;
const PADDING = 3; // tokens of q after the last sequence
const GAP = 6; // elements between tokens of q, k and v

const total = (c: AttentionCase, field: 0 | 1): number => c.sequences.reduce((sum, s) => sum + s[field], 0);

function inputsOf(c: AttentionCase): AttentionInputs {
  const size = (tokens: number, heads: number): number => tokens * heads * c.headDim;
  return {
    q: roundTo(c.dtype, randomValues(size(total(c, 0), c.numHeads), 1, 2)),
    k: roundTo(c.dtype, randomValues(size(total(c, 1), c.numKvHeads), 2)),
    v: roundTo(c.dtype, randomValues(size(total(c, 1), c.numKvHeads), 3)),
    slopes: c.alibi ? Float64Array.from({ length: c.numHeads }, (_, h) => 2 ** (-8 * ((h + 1) / c.numHeads))).map(Math.fround) : null,
    sinks: c.sinks ? randomValues(c.numHeads, 4, 3).map(Math.fround) : null,
  };
}

/** The inputs with the keys and values that the cache gives back. */
function stored({ fp8 }: AttentionCase, x: AttentionInputs): AttentionInputs {
  return fp8 ? { ...x, k: throughFp8(x.k, fp8.kScale), v: throughFp8(x.v, fp8.vScale) } : x;
}

/** Bits of [tokens + extra, width] with NaN in a gap after each row and in the extra rows. */
function gapped(c: AttentionCase, values: Float64Array, width: number, extra: number): NodeJS.TypedArray {
  const rows = values.length / width;
  const wide = new Float64Array((rows + extra) * (width + GAP)).fill(NaN);
  for (let i = 0; i < rows; i++) wide.set(values.subarray(i * width, (i + 1) * width), i * (width + GAP));
  return encode(c.dtype, wide);
}

interface Encoded {
  readonly c: AttentionCase;
  readonly q: NodeJS.TypedArray;
  readonly k: NodeJS.TypedArray;
  readonly v: NodeJS.TypedArray;
  readonly slopes: Float64Array | null;
  readonly sinks: Float64Array | null;
}

function encodeInputs(c: AttentionCase, x: AttentionInputs): Encoded {
  const kvWidth = c.numKvHeads * c.headDim;
  return {
    c,
    q: gapped(c, x.q, c.numHeads * c.headDim, PADDING),
    k: gapped(c, x.k, kvWidth, 0),
    v: gapped(c, x.v, kvWidth, 0),
    slopes: x.slopes,
    sinks: x.sinks,
  };
}

/** Block of a page, counted over all sequences: a permutation, because numBlocks is odd. */
function blockOf(page: number, numBlocks: number): number {
  return (page * (numBlocks - 2) + 1) % numBlocks;
}

/** A cache, poisoned with NaN, that holds exactly the keys some query attends, and the tables that describe it. */
function fillCache(bench: OpBench, e: Encoded): { kvCache: Tensor; blocks: number[]; rows: number[]; width: number } {
  const { c } = e;
  const pagesOf = (seqLen: number): number => Math.ceil(seqLen / PAGE);
  const used = c.sequences.reduce((sum, s) => sum + pagesOf(s[1]), 0);
  const numBlocks = used + (used % 2 === 0 ? 3 : 2); // odd
  const width = Math.max(...c.sequences.map((s) => pagesOf(s[1]))) + 1;
  const n = c.sequences.length;
  const rows = c.sequences.map((_, i) => n - i); // rows of the block table in another order, row 0 unused
  const blocks = new Array<number>((n + 1) * width).fill(-1);
  const slots: number[] = [];
  let page = 0;
  c.sequences.forEach(([queryLen, seqLen], i) => {
    const first = firstKey(c, queryLen, seqLen);
    for (let p = 0; p < pagesOf(seqLen); p++) if ((p + 1) * PAGE > first) blocks[rows[i]! * width + p] = blockOf(page + p, numBlocks);
    for (let t = 0; t < seqLen; t++) slots.push(t < first ? -1 : blockOf(page + Math.floor(t / PAGE), numBlocks) * PAGE + (t % PAGE));
    page += pagesOf(seqLen);
  });
  const kvCache = bench.poisoned(c.fp8 ? 'float8_e4m3' : c.dtype, [numBlocks, 2, c.numKvHeads, PAGE, c.headDim]);
  const slotMapping = bench.ints('int64', [slots.length], slots);
  const kvWidth = c.numKvHeads * c.headDim;
  const [k, v] = [e.k, e.v].map((bits) => {
    const wide = bench.poisoned(c.dtype, [slots.length, kvWidth + GAP]);
    wide.write(bits);
    return bench.run(() => reshape(narrow(wide, 1, 0, kvWidth), [slots.length, c.numKvHeads, c.headDim]));
  });
  bench.run(() => kvCacheWrite(kvCache, k!, v!, slotMapping, c.fp8));
  return { kvCache, blocks, rows, width };
}

function sequencesOf(bench: OpBench, c: AttentionCase, cache: ReturnType<typeof fillCache>, parts: readonly Part[]): PagedSequences {
  const lens = parts.map(([seq, first, count]) => {
    const [queryLen, seqLen] = c.sequences[seq]!;
    return seqLen === 0 ? 0 : seqLen - queryLen + first + count;
  });
  let end = 0;
  return {
    blockTable: bench.ints('int32', [cache.blocks.length / cache.width, cache.width], cache.blocks),
    seqRows: bench.ints('int32', [parts.length], parts.map(([seq]) => cache.rows[seq]!)),
    seqLens: bench.ints('int32', [parts.length], lens),
    queryStartLoc: bench.ints('int32', [parts.length + 1], [0, ...parts.map(([, , count]) => (end += count))]),
  };
}

type Part = readonly [sequence: number, first: number, queries: number];

/** One step over some of the queries. Returns the rows of out in that order, then the padding. */
async function attend(bench: OpBench, e: Encoded, cache: ReturnType<typeof fillCache>, parts: readonly Part[]): Promise<Float64Array> {
  const { c } = e;
  const width = c.numHeads * c.headDim;
  const queryStart = c.sequences.map((_, i) => c.sequences.slice(0, i).reduce((sum, s) => sum + s[0], 0));
  const tokens = parts.flatMap(([seq, first, count]) => Array.from({ length: count }, (_, j) => queryStart[seq]! + first + j));
  const padded = tokens.length + PADDING;
  const wide = bench.poisoned(c.dtype, [padded, width + GAP]);
  const bits = encode(c.dtype, new Float64Array(padded * (width + GAP)).fill(NaN));
  tokens.forEach((t, i) => (bits as Uint16Array).set((e.q as Uint16Array).subarray(t * (width + GAP), (t + 1) * (width + GAP)), i * (width + GAP)));
  wide.write(bits);
  const { blockTable, seqRows, seqLens, queryStartLoc } = sequencesOf(bench, c, cache, parts);
  const optional = (values: Float64Array | null): Tensor | null => values && bench.float('float32', [values.length], values);
  const out = bench.poisoned(c.dtype, [padded, c.numHeads, c.headDim]);
  bench.run(() => {
    const q = reshape(narrow(wide, 1, 0, width), [padded, c.numHeads, c.headDim]);
    const { slidingWindow = 0, logitsSoftCap = 0, fp8: { kScale, vScale } = NO_SCALES } = c;
    const [slopes, sinks] = [optional(e.slopes), optional(e.sinks)];
    call('pagedAttention', out, q, cache.kvCache, blockTable, seqRows, seqLens, queryStartLoc, scaleOf(c), slidingWindow, logitsSoftCap, slopes, sinks, kScale, vScale);
  });
  return bench.values(out);
}

const wholeBatch = (c: AttentionCase): Part[] => c.sequences.map(([queryLen], i) => [i, 0, queryLen]);

const INVARIANT = { sequences: [[70, 600], [1, 900], [9, 40]], numHeads: 6, numKvHeads: 2, headDim: 40 } as const;

/** The parts of a step whose bits are not those of the whole batch. */
function differing(c: AttentionCase, whole: Float64Array, part: Float64Array, parts: readonly Part[]): Part[] {
  const row = c.numHeads * c.headDim;
  let token = 0;
  return parts.filter(([seq, first, count]) => {
    const start = c.sequences.slice(0, seq).reduce((sum, s) => sum + s[0], first) * row;
    const expected = whole.slice(start, start + count * row);
    const actual = part.slice(token * row, (token + count) * row);
    token += count;
    return !Buffer.from(expected.buffer).equals(Buffer.from(actual.buffer));
  });
}

describe('pagedAttention', () => {
  it.each(ATTENTION_CASES.map((c) => [JSON.stringify(c), c] as const))('%s', async (_name, c) => {
    const x = inputsOf(c);
    const e = encodeInputs(c, x);
    const expected = attentionReference(c, stored(c, x));
    await forEachIsa(async (isa) => {
      const bench = new OpBench();
      const out = await attend(bench, e, fillCache(bench, e), wholeBatch(c));
      const error = relativeL2(out.subarray(0, expected.length), expected);
      expect([isa, error < TOLERANCE[c.dtype] ? 'close' : error]).toEqual([isa, 'close']);
      expect(out.subarray(expected.length).every((v) => v === 0)).toBe(true);
      await bench.close();
    });
  });

  it.each((['float32', 'float16', 'bfloat16'] as const).flatMap((dtype) => [
    { ...INVARIANT, dtype },
    { ...INVARIANT, dtype, slidingWindow: 300, logitsSoftCap: 20, alibi: true, sinks: true },
    { ...INVARIANT, dtype, fp8: { kScale: 0.02, vScale: 0.5 }, sinks: true },
  ]).map((c) => [JSON.stringify(c), c] as const))('gives a query the same bits alone, in any batch, chunk and number of threads: %s', async (_name, c) => {
    const e = encodeInputs(c, inputsOf(c));
    await forEachIsa(async (isa) => {
      const bench = new OpBench(1);
      const cache = fillCache(bench, e);
      const whole = await attend(bench, e, cache, wholeBatch(c));
      for (const [first, count] of [[0, 1], [69, 1], [13, 2], [30, 33], [0, 64], [64, 6], [5, 65]] as const)
        expect([isa, first, count, differing(c, whole, await attend(bench, e, cache, [[0, first, count]]), [[0, first, count]])]).toEqual([isa, first, count, []]);
      const threads = new OpBench(4);
      const other = fillCache(threads, e);
      for (const parts of [wholeBatch(c), [[1, 0, 1]], [[0, 7, 1], [2, 8, 1]], [[2, 3, 5], [0, 20, 7], [1, 0, 1]]] as Part[][])
        expect([isa, parts, differing(c, whole, await attend(threads, e, other, parts), parts)]).toEqual([isa, parts, []]);
      await threads.close(); // before the other: each checks that the storages made since it began are gone
      await bench.close();
    });
  });
});

const WHOLE = { sequences: [[70, 600], [1, 900], [2, 40], [1, 3000]], numHeads: 8, numKvHeads: 2 } as const;

// Tensor core kernels for long and for short queries differ, so only whole queries are compared here; the CPU is held to more above.
describe('pagedAttention of whole sequences', () => {
  itOn('cuda').each((['float16', 'bfloat16'] as const).flatMap((dtype) => [64, 128].flatMap((headDim) => [
    { ...WHOLE, dtype, headDim },
    { ...WHOLE, dtype, headDim, slidingWindow: 500, logitsSoftCap: 20, alibi: true, sinks: true },
    { ...WHOLE, dtype, headDim, fp8: { kScale: 0.02, vScale: 0.5 } },
  ])).map((c) => [JSON.stringify(c), c] as const))('gives the same bits alone and in any batch: %s', async (_name, c) => {
    const bench = new OpBench();
    const e = encodeInputs(c, inputsOf(c));
    const cache = fillCache(bench, e);
    const whole = await attend(bench, e, cache, wholeBatch(c));
    for (const order of [[0], [1], [2], [3], [3, 1], [2, 0], [1, 3, 2], [3, 2, 1, 0]]) {
      const parts = order.map((i): Part => [i, 0, c.sequences[i]![0]]);
      expect([order, differing(c, whole, await attend(bench, e, cache, parts), parts)]).toEqual([order, []]);
    }
    await bench.close();
  });
});

describe('errors of pagedAttention', () => {
  const base = { blocks: [0, 1], row: 0, seqLen: 20, starts: [0, 2] };

  async function run(change: Partial<typeof base>, shapes: { numHeads?: number; softCap?: number } = {}): Promise<void> {
    const { blocks, row, seqLen, starts } = { ...base, ...change };
    const bench = new OpBench();
    try {
      const zeros = (shape: number[]): Tensor => bench.float('float32', shape, new Float64Array(shape.reduce((a, b) => a * b)));
      const q = zeros([2, shapes.numHeads ?? 2, 8]);
      const tables = [bench.ints('int32', [1, 2], blocks), bench.ints('int32', [1], [row]), bench.ints('int32', [1], [seqLen]), bench.ints('int32', [2], starts)] as const;
      bench.run(() => call('pagedAttention', zeros([2, shapes.numHeads ?? 2, 8]), q, zeros([2, 2, 2, 16, 8]), ...tables, 1, 0, shapes.softCap ?? 0, null, null, 1, 1));
      await bench.device.synchronize();
    } finally {
      await bench.close();
    }
  }
  const tensorError = (text: string): object => ({ code: 'ERR_KVASIR_TENSOR', message: expect.stringContaining(text) as string });

  it('accepts what the others change', async () => {
    await expect(run({})).resolves.toBeUndefined();
  });

  // A GPU cannot tell the host before the step is over; its kernels trust the scheduler.
  itOn('cpu').each([
    ['a block outside the cache', { blocks: [0, 2] }, 'block 1 of sequence 0 is 2, expected 0 to 1'],
    ['a negative block', { blocks: [-1, 1] }, 'block 0 of sequence 0 is -1'],
    ['a row outside the block table', { row: 1 }, 'seqRows[0] is 1'],
    ['more keys than a row holds', { seqLen: 33 }, 'seqLens[0] is 33'],
    ['fewer keys than queries', { seqLen: 1 }, 'expected 0 or at least its 2 query tokens'],
    ['descending starts', { starts: [2, 0] }, 'queryStartLoc goes from 2 to 0'],
    ['starts past the tokens', { starts: [0, 3] }, 'up to numTokens 2'],
  ])('reports %s at the next synchronize', async (_name, change, text) => {
    await expect(run(change)).rejects.toMatchObject(tensorError(text));
  });

  it('reports shapes that do not agree at the call', async () => {
    await expect(run({}, { numHeads: 3 })).rejects.toMatchObject(tensorError('numHeads must be a multiple of numKvHeads'));
    await expect(run({}, { softCap: -1 })).rejects.toMatchObject(tensorError('logitsSoftCap must not be negative'));
  });
});
