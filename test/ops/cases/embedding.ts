import type { FloatType } from '../harness';

export interface EmbeddingCase {
  readonly dtype: FloatType;
  readonly outDtype: FloatType;
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly numTokens: number;
  readonly vocabStart: number;
}

const types: readonly (readonly [FloatType, FloatType])[] = [
  ['float32', 'float32'],
  ['float16', 'float16'],
  ['bfloat16', 'bfloat16'],
  ['bfloat16', 'float32'],
  ['float16', 'float32'],
];

export const EMBEDDING_CASES: readonly EmbeddingCase[] = types.flatMap(([dtype, outDtype]) =>
  [
    [64, 8, 1, 0],
    [128, 30, 77, 64],
    [192, 176, 513, 1000],
  ].map(([vocabSize, hiddenSize, numTokens, vocabStart]) => ({
    dtype,
    outDtype,
    vocabSize: vocabSize!,
    hiddenSize: hiddenSize!,
    numTokens: numTokens!,
    vocabStart: vocabStart!,
  })),
);

/** Ids that cover the shard, both of its edges and what lies outside. */
export function embeddingIds(c: EmbeddingCase): number[] {
  const edges = [c.vocabStart + c.vocabSize - 1, c.vocabStart - 1, c.vocabStart + c.vocabSize, c.vocabStart, -1, 2 ** 31 - 1];
  return Array.from({ length: c.numTokens }, (_, t) => edges[t] ?? c.vocabStart - 20 + ((t * 31) % (c.vocabSize + 40)));
}

export function embeddingReference(c: EmbeddingCase, weight: Float64Array): Float64Array {
  const out = new Float64Array(c.numTokens * c.hiddenSize);
  embeddingIds(c).forEach((id, t) => {
    const row = id - c.vocabStart;
    if (row < 0 || row >= c.vocabSize) return;
    out.set(weight.subarray(row * c.hiddenSize, (row + 1) * c.hiddenSize), t * c.hiddenSize);
  });
  return out;
}
