/** Sampling parameters of a request, with neutral defaults. */
export interface SampleParams {
  readonly temperature: number;
  readonly topP: number;
  readonly minP: number;
  readonly topK: number;
  readonly repetition: number;
  readonly presence: number;
  readonly frequency: number;
}

export function sampleParams(given: Partial<SampleParams>): SampleParams {
  return { temperature: 1, topP: 1, minP: 0, topK: 0, repetition: 1, presence: 0, frequency: 0, ...given };
}

export function paramsRow(p: SampleParams): number[] {
  return [p.temperature, p.topP, p.minP, p.topK, p.repetition, p.presence, p.frequency, 0];
}

/** Combinations whose sampled distribution is compared with the exact one. */
export const SAMPLE_CASES: readonly Partial<SampleParams>[] = [
  {},
  { temperature: 0.6 },
  { temperature: 1.8 },
  { topK: 1 },
  { topK: 7 },
  { topP: 0.5 },
  { topP: 0.95, temperature: 0.8 },
  { minP: 0.1 },
  { topK: 20, topP: 0.7 },
  { minP: 0.02, topP: 0.9, temperature: 1.3 },
  { minP: 0.05, topK: 12, topP: 0.8, temperature: 1.5 },
  { topP: 1e-6 },
];

/** Exact probabilities by sorting, in float64: temperature, min-p, top-k (with ties), top-p (equals together). */
export function exactProbabilities(logits: Float64Array, p: SampleParams): Float64Array {
  const max = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const weights = logits.map((x) => Math.exp((x - max) / p.temperature));
  if (p.minP > 0) weights.forEach((w, i) => w < p.minP && (weights[i] = 0));
  const order = Array.from(weights.keys()).sort((a, b) => weights[b]! - weights[a]! || a - b);
  if (p.topK >= 1 && p.topK < logits.length) {
    const last = weights[order[p.topK - 1]!]!;
    weights.forEach((w, i) => w < last && (weights[i] = 0));
  }
  if (p.topP < 1) {
    const total = weights.reduce((a, b) => a + b, 0);
    let before = 0;
    for (let i = 0; i < order.length; ) {
      let end = i;
      let mass = 0;
      while (end < order.length && weights[order[end]!] === weights[order[i]!]) mass += weights[order[end++]!]!;
      if (i > 0 && before >= p.topP * total) for (let j = i; j < order.length; j++) weights[order[j]!] = 0;
      before += mass;
      i = end;
    }
  }
  const sum = weights.reduce((a, b) => a + b, 0);
  return weights.map((w) => w / sum);
}

/** Philox4x32-10, from the paper (Salmon et al., SC 2011). */
export function philox(counter: readonly number[], key: readonly number[]): number[] {
  let [c0, c1, c2, c3] = counter.map((x) => BigInt(x >>> 0)) as [bigint, bigint, bigint, bigint];
  let [k0, k1] = key.map((x) => BigInt(x >>> 0)) as [bigint, bigint];
  const low = 0xffffffffn;
  for (let round = 0; round < 10; round++) {
    const a = c0 * 0xd2511f53n;
    const b = c2 * 0xcd9e8d57n;
    [c0, c1, c2, c3] = [(b >> 32n) ^ c1 ^ k0, b & low, (a >> 32n) ^ c3 ^ k1, a & low];
    k0 = (k0 + 0x9e3779b9n) & low;
    k1 = (k1 + 0xbb67ae85n) & low;
  }
  return [c0, c1, c2, c3].map(Number);
}

/** The token that Gumbel-max draws from these probabilities, in float64. */
export function gumbelReference(probabilities: Float64Array, seed: readonly [number, number], position: number): number {
  let best = -1;
  let bestScore = -Infinity;
  probabilities.forEach((p, id) => {
    if (p === 0) return;
    const word = philox([(id >> 6) * 16 + (id & 15), position, 0, 0], seed)[(id >> 4) & 3]!;
    const score = Math.log(p) - Math.log(-Math.log1p(-(word + 0.5) / 2 ** 32));
    if (score > bestScore) [best, bestScore] = [id, score];
  });
  return best;
}

/** Upper bound of chi-square with `degrees` degrees of freedom that chance exceeds once in about 10,000 (Wilson-Hilferty). */
export function chiSquareLimit(degrees: number): number {
  const v = 2 / (9 * degrees);
  return degrees * (1 - v + 3.72 * Math.sqrt(v)) ** 3;
}

/** Pearson's statistic; cells with fewer than 5 expected draws are pooled. A draw where none can be gives Infinity. */
export function chiSquare(draws: Int32Array, probabilities: Float64Array): { statistic: number; degrees: number } {
  const counts = new Float64Array(probabilities.length);
  for (const id of draws) counts[id] = (counts[id] ?? NaN) + 1;
  let statistic = 0;
  let cells = 0;
  let pooled = { expected: 0, count: 0 };
  const add = (expected: number, count: number): void => {
    statistic += (count - expected) ** 2 / expected;
    cells++;
  };
  probabilities.forEach((p, id) => {
    const expected = p * draws.length;
    if (p === 0) statistic += counts[id]! > 0 ? Infinity : 0;
    else if (expected >= 5) add(expected, counts[id]!);
    else pooled = { expected: pooled.expected + expected, count: pooled.count + counts[id]! };
  });
  if (pooled.expected >= 5) add(pooled.expected, pooled.count);
  return { statistic, degrees: Math.max(cells - 1, 1) };
}

/** vLLM's penalties, one token at a time. */
export function penaltyReference(logits: Float64Array, prompt: readonly number[], output: readonly number[], p: SampleParams): Float64Array {
  return logits.map((x, id) => {
    const occurrences = output.filter((o) => o === id).length;
    if (occurrences > 0 || prompt.includes(id)) x = x > 0 ? x / p.repetition : x * p.repetition;
    return x - p.frequency * occurrences - (occurrences > 0 ? p.presence : 0);
  });
}

/** A value and its token id. */
export type Pair = readonly [value: number, id: number];

/** Shapes of {@link topReference}: [rows, columns, k, id of the first column, columns that count]. */
export const TOP_CASES: readonly (readonly [numRows: number, n: number, k: number, firstId: number, numValid: number])[] = [
  [1, 1, 1, 0, 1],
  [3, 5, 1, 10, 5],
  [4, 4097, 1, 8194, 4097],
  [2, 9001, 1, 0, 8999],
  [2, 33, 64, 99, 33],
  [3, 64, 64, 128, 9],
  [2, 64, 3, 192, 0],
  [2, 64, 1, 192, 0],
  [3, 4096, 64, 4096, 4096],
  [3, 4101, 64, 12303, 4100],
  [2, 32064, 64, 96192, 32064],
  [2, 9001, 512, 0, 9001],
];

/** The k largest of the columns that count, a larger one first, the lower id first among equals, by sorting. */
export function topReference(row: Float64Array, k: number, firstId: number, numValid: number): Pair[] {
  const valid = Array.from(row.subarray(0, numValid));
  const none: Pair = [-Infinity, -1];
  const pairs = valid.some(Number.isNaN) ? [[NaN, -1] as const] : valid.map((value, i): Pair => (value === -Infinity ? none : [value, firstId + i]));
  pairs.sort((a, b) => (a[0] === b[0] ? a[1] - b[1] : b[0] - a[0]));
  return Array.from({ length: k }, (_, i) => pairs[i] ?? none);
}
