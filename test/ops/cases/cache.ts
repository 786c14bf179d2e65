import { type FloatType, TEST_DEVICE } from '../harness';

export const PAGE_TOKENS = 16;

export interface CacheCase {
  readonly dtype: FloatType;
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly numBlocks: number;
  /** Slot of each token; negative ones and those past the cache are not stored. */
  readonly slots: readonly number[];
}

const FEW = [5, -1, 40, 16, 15, -7, 47, 48, 1000, 0];
const MANY = Array.from({ length: 300 }, (_, i) => (i % 9 === 4 ? -1 : (i * 37) % 320));

export const CACHE_CASES: readonly CacheCase[] = (['float32', 'float16', 'bfloat16'] as const).flatMap((dtype) =>
  [
    [1, 8],
    [2, 80],
    [4, 64],
    [3, 130],
  ].flatMap(([numKvHeads, headDim]) => [
    { dtype, numKvHeads: numKvHeads!, headDim: headDim!, numBlocks: 3, slots: FEW },
    { dtype, numKvHeads: numKvHeads!, headDim: headDim!, numBlocks: 20, slots: MANY },
  ]),
);

/** Where the backend keeps dimension d of a token inside a page (native/cpu/cache_layout.h, native/cuda/cache_layout.cuh). */
export function pageIndex(dtype: FloatType, headDim: number, kind: 'k' | 'v', token: number, d: number): number {
  if (TEST_DEVICE === 'cuda') return token * headDim + d;
  if (dtype !== 'bfloat16') return kind === 'k' ? d * PAGE_TOKENS + token : token * headDim + d;
  return kind === 'k' ? (Math.floor(d / 2) * PAGE_TOKENS + token) * 2 + (d % 2) : (Math.floor(token / 2) * headDim + d) * 2 + (token % 2);
}

/** The whole cache after the write, NaN where nothing was stored. k, v: [numTokens, numKvHeads, headDim]. */
export function cacheReference(c: CacheCase, k: Float64Array, v: Float64Array): Float64Array {
  const { numKvHeads, headDim, numBlocks } = c;
  const page = PAGE_TOKENS * headDim;
  const cache = new Float64Array(numBlocks * 2 * numKvHeads * page).fill(NaN);
  c.slots.forEach((slot, t) => {
    if (slot < 0 || slot >= numBlocks * PAGE_TOKENS) return;
    const [block, token] = [Math.floor(slot / PAGE_TOKENS), slot % PAGE_TOKENS];
    for (let h = 0; h < numKvHeads; h++)
      for (let d = 0; d < headDim; d++) {
        const from = (t * numKvHeads + h) * headDim + d;
        cache[(block * 2 * numKvHeads + h) * page + pageIndex(c.dtype, headDim, 'k', token, d)] = k[from]!;
        cache[((block * 2 + 1) * numKvHeads + h) * page + pageIndex(c.dtype, headDim, 'v', token, d)] = v[from]!;
      }
  });
  return cache;
}
