import type { KvScales } from '../../../lib/ops/cache';
import type { FloatType } from '../harness';

export interface AttentionCase {
  readonly dtype: FloatType;
  /** A float8_e4m3 cache with these scales; else the cache has the dtype of the queries. */
  readonly fp8?: KvScales;
  /** Query tokens and keys (these queries included) of each sequence. */
  readonly sequences: readonly (readonly [queryLen: number, seqLen: number])[];
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly slidingWindow?: number;
  readonly logitsSoftCap?: number;
  readonly alibi?: boolean;
  readonly sinks?: boolean;
}

type Sequences = AttentionCase['sequences'];
const MIXED: Sequences = [[1, 1328], [5, 18], [129, 463]];
const DECODE: Sequences = [[1, 523], [1, 37], [1, 2011]];
const SMALL: Sequences = [[3, 3], [1, 16], [2, 0], [17, 33], [0, 5], [1, 257], [40, 300], [1, 1]];

const SHAPES: readonly Omit<AttentionCase, 'dtype'>[] = [
  { sequences: MIXED, numHeads: 2, numKvHeads: 2, headDim: 64 },
  { sequences: MIXED, numHeads: 8, numKvHeads: 2, headDim: 64, slidingWindow: 256 },
  { sequences: MIXED, numHeads: 8, numKvHeads: 2, headDim: 16, logitsSoftCap: 50, alibi: true },
  { sequences: DECODE, numHeads: 2, numKvHeads: 2, headDim: 128 },
  { sequences: DECODE, numHeads: 8, numKvHeads: 2, headDim: 80, slidingWindow: 256, logitsSoftCap: 50 },
  { sequences: DECODE, numHeads: 8, numKvHeads: 2, headDim: 64, slidingWindow: 16, sinks: true },
  { sequences: SMALL, numHeads: 32, numKvHeads: 8, headDim: 8, sinks: true },
  { sequences: SMALL, numHeads: 6, numKvHeads: 2, headDim: 32 },
  { sequences: SMALL, numHeads: 4, numKvHeads: 1, headDim: 96, alibi: true, slidingWindow: 17 },
  { sequences: SMALL, numHeads: 2, numKvHeads: 1, headDim: 256 },
  { sequences: SMALL, numHeads: 5, numKvHeads: 1, headDim: 26, logitsSoftCap: 2, slidingWindow: 1 },
  { sequences: SMALL, numHeads: 37, numKvHeads: 1, headDim: 16 },
  { sequences: SMALL, numHeads: 20, numKvHeads: 1, headDim: 64, slidingWindow: 40 },
  { sequences: MIXED, numHeads: 4, numKvHeads: 1, headDim: 128, logitsSoftCap: 30 },
  { sequences: DECODE, numHeads: 16, numKvHeads: 1, headDim: 96, sinks: true },
  { sequences: SMALL, numHeads: 2, numKvHeads: 2, headDim: 64, logitsSoftCap: 5, alibi: true, sinks: true, slidingWindow: 100 },
];

const FP8_SCALES: readonly KvScales[] = [{ kScale: 1, vScale: 1 }, { kScale: 0.0123, vScale: 0.0234 }, { kScale: 0.8, vScale: 0.03 }];

export const ATTENTION_CASES: readonly AttentionCase[] = (['float32', 'float16', 'bfloat16'] as const).flatMap((dtype) => [
  ...SHAPES.map((s) => ({ dtype, ...s })),
  ...SHAPES.filter((_, i) => dtype === 'bfloat16' || i % 4 === 0).map((s, i) => ({ dtype, fp8: FP8_SCALES[i % 3]!, ...s })),
]);

export interface AttentionInputs {
  /** [numTokens, numHeads, headDim] */
  readonly q: Float64Array;
  /** [keys of all sequences, numKvHeads, headDim] */
  readonly k: Float64Array;
  readonly v: Float64Array;
  readonly slopes: Float64Array | null;
  readonly sinks: Float64Array | null;
}

export const scaleOf = (c: AttentionCase): number => 1 / Math.sqrt(c.headDim);

/** First key that any query of a sequence attends. */
export function firstKey(c: AttentionCase, queryLen: number, seqLen: number): number {
  return c.slidingWindow ? Math.max(0, seqLen - queryLen - c.slidingWindow + 1) : 0;
}

/** Weights of one query of a head over keys [lo, position], normalised. */
function weightsOf(c: AttentionCase, x: AttentionInputs, query: number, head: number, position: number, firstRow: number): { lo: number; weights: Float64Array } {
  const { headDim: d, numHeads, numKvHeads } = c;
  const lo = c.slidingWindow ? Math.max(0, position - c.slidingWindow + 1) : 0;
  const kvHead = Math.floor(head / (numHeads / numKvHeads));
  const weights = new Float64Array(position - lo + 1);
  const qAt = (query * numHeads + head) * d;
  for (let key = lo; key <= position; key++) {
    const kAt = ((firstRow + key) * numKvHeads + kvHead) * d;
    let s = 0;
    for (let i = 0; i < d; i++) s += x.q[qAt + i]! * x.k[kAt + i]!;
    s *= scaleOf(c);
    if (c.logitsSoftCap) s = c.logitsSoftCap * Math.tanh(s / c.logitsSoftCap);
    if (x.slopes) s += x.slopes[head]! * (key - position);
    weights[key - lo] = s;
  }
  const max = weights.reduce((a, b) => Math.max(a, b), x.sinks ? x.sinks[head]! : -Infinity);
  let sum = x.sinks ? Math.exp(x.sinks[head]! - max) : 0;
  for (let i = 0; i < weights.length; i++) sum += weights[i] = Math.exp(weights[i]! - max);
  return { lo, weights: weights.map((w) => w / sum) };
}

/** Dense float64 attention; rows of empty sequences are zero. */
export function attentionReference(c: AttentionCase, x: AttentionInputs): Float64Array {
  const { headDim: d, numHeads, numKvHeads } = c;
  const out = new Float64Array(x.q.length);
  let query = 0;
  let firstRow = 0;
  for (const [queryLen, seqLen] of c.sequences) {
    for (let j = 0; j < queryLen && seqLen > 0; j++)
      for (let head = 0; head < numHeads; head++) {
        const { lo, weights } = weightsOf(c, x, query + j, head, seqLen - queryLen + j, firstRow);
        const outAt = ((query + j) * numHeads + head) * d;
        weights.forEach((w, i) => {
          const vAt = ((firstRow + lo + i) * numKvHeads + Math.floor(head / (numHeads / numKvHeads))) * d;
          for (let n = 0; n < d; n++) out[outAt + n]! += w * x.v[vAt + n]!;
        });
      }
    query += queryLen;
    firstRow += seqLen;
  }
  return out;
}
