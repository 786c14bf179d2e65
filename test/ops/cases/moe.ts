import type { FloatType } from '../harness';

const DTYPES = ['float32', 'float16', 'bfloat16'] as const;

/** Routing of tokens to experts; the tables serve the tests of every backend. */
export interface RoutingCase {
  readonly dtype: FloatType;
  readonly numTokens: number;
  readonly numExperts: number;
  readonly topK: number;
  readonly renormalize: boolean;
}

/** Expert counts around a warp of 32 and those of known models. */
export const ROUTING_CASES: readonly RoutingCase[] = DTYPES.flatMap((dtype, d) =>
  ([[1, 1, 1], [3, 8, 2], [17, 8, 8], [5, 31, 3], [64, 60, 4], [7, 128, 8], [2, 300, 32], [9, 1024, 8]] as const).map(([numTokens, numExperts, topK], i) => ({
    dtype, numTokens, numExperts, topK, renormalize: (i + d) % 2 === 0,
  })),
);

/** Softmax in float64, then the topK largest logits, the lower index first among equals. */
export function routingReference(c: RoutingCase, logits: Float64Array): { weights: number[]; experts: number[] } {
  const weights: number[] = [];
  const experts: number[] = [];
  for (let t = 0; t < c.numTokens; t++) {
    const row = Array.from(logits.subarray(t * c.numExperts, (t + 1) * c.numExperts));
    const largest = Math.max(...row);
    const total = row.reduce((sum, v) => sum + Math.exp(v - largest), 0);
    const chosen = row.map((_, e) => e).sort((a, b) => row[b]! - row[a]! || a - b).slice(0, c.topK);
    const probabilities = chosen.map((e) => Math.exp(row[e]! - largest) / total);
    const scale = c.renormalize ? probabilities.reduce((a, b) => a + b, 0) : 1;
    experts.push(...chosen);
    weights.push(...probabilities.map((p) => p / scale));
  }
  return { weights, experts };
}

/** Which expert a pair gets: all in turn, most of them one, or two of three outside the range. */
export type Spread = 'even' | 'skewed' | 'partial';

export interface MoeLinearCase {
  readonly dtype: FloatType;
  readonly numTokens: number;
  readonly numExperts: number;
  readonly topK: number;
  readonly n: number;
  readonly k: number;
  readonly packed: boolean;
  /** x has a row per pair instead of one per token. */
  readonly perPair: boolean;
  readonly spread: Spread;
  /** Rows of x and out with gaps between them. */
  readonly strided: boolean;
}

const SPREADS = ['even', 'skewed', 'partial'] as const;

/** [numTokens, numExperts, topK, n, k]: one pair per expert and hundreds, widths around a block of 64, every block height. */
const SHAPES: readonly (readonly [number, number, number, number, number])[] = [
  [1, 8, 2, 128, 64], [1, 4, 4, 65, 72], [2, 128, 8, 64, 128], [5, 8, 1, 72, 2048], [7, 3, 2, 8, 40],
  [16, 8, 2, 136, 64], [40, 4, 2, 64, 264], [100, 4, 2, 192, 72], [150, 3, 2, 130, 66], [300, 2, 2, 64, 136],
];

export const MOE_LINEAR_CASES: readonly MoeLinearCase[] = DTYPES.flatMap((dtype, d) =>
  SHAPES.map(([numTokens, numExperts, topK, n, k], i) => {
    const turn = i + d;
    return { dtype, numTokens, numExperts, topK, n, k, packed: turn % 4 !== 3, perPair: turn % 2 === 1, spread: SPREADS[turn % 3]!, strided: turn % 5 < 2 };
  }),
);

/** Experts of pairs [numTokens, topK]; ids outside [0, numExperts) are of padding rows or of other ranks. */
export function spreadExperts({ numTokens, numExperts, topK, spread }: Pick<MoeLinearCase, 'numTokens' | 'numExperts' | 'topK' | 'spread'>): number[] {
  return Array.from({ length: numTokens * topK }, (_, p) => {
    if (spread === 'skewed') return p % 5 === 0 ? (p * 7) % numExperts : numExperts - 1;
    if (spread === 'partial' && p % 3 !== 0) return p % 3 === 1 ? -1 : numExperts + p;
    return (p * 5 + 3) % numExperts;
  });
}

/** float64 on values that are already rounded to the dtype; NaN in rows of pairs without an expert. */
export function moeLinearReference(c: MoeLinearCase, experts: readonly number[], x: Float64Array, weights: Float64Array): Float64Array {
  const out = new Float64Array(experts.length * c.n).fill(NaN);
  experts.forEach((expert, p) => {
    if (expert < 0 || expert >= c.numExperts) return;
    const row = c.perPair ? p : Math.floor(p / c.topK);
    for (let j = 0; j < c.n; j++) {
      let sum = 0;
      for (let l = 0, a = row * c.k, b = (expert * c.n + j) * c.k; l < c.k; l++) sum += x[a + l]! * weights[b + l]!;
      out[p * c.n + j] = sum;
    }
  });
  return out;
}
