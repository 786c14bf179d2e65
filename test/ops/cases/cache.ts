import { NO_SCALES, type KvScales } from '../../../lib/ops/cache';
import { type FloatType, TEST_DEVICE, throughFp8 } from '../harness';

export const PAGE_TOKENS = 16;

export interface CacheCase {
  readonly dtype: FloatType;
  /** A float8_e4m3 cache with these scales; else the cache has the dtype of keys and values. */
  readonly fp8?: KvScales;
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly numBlocks: number;
  /** Slot of each token; negative ones and those past the cache are not stored. */
  readonly slots: readonly number[];
}

const FEW = [5, -1, 40, 16, 15, -7, 47, 48, 1000, 0];
const MANY = Array.from({ length: 300 }, (_, i) => (i % 9 === 4 ? -1 : (i * 37) % 320));

const PLAIN_CASES: readonly CacheCase[] = (['float32', 'float16', 'bfloat16'] as const).flatMap((dtype) =>
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

const FP8_SCALES: readonly KvScales[] = [NO_SCALES, { kScale: 0.0123, vScale: 3.7 }, { kScale: 0.005, vScale: 0.004 }]; // the last: values beyond 448

export const CACHE_CASES: readonly CacheCase[] = [...PLAIN_CASES, ...PLAIN_CASES.map((c, i) => ({ ...c, fp8: FP8_SCALES[i % 3]! }))];

/** Where the backend keeps dimension d of a token inside a page (native/cpu/cache_layout.h, native/cuda/cache_layout.cuh). */
export function pageIndex({ dtype, fp8, headDim }: CacheCase, kind: 'k' | 'v', token: number, d: number): number {
  if (TEST_DEVICE === 'cuda') return token * headDim + d;
  if (dtype !== 'bfloat16' && !fp8) return kind === 'k' ? d * PAGE_TOKENS + token : token * headDim + d;
  return kind === 'k' ? (Math.floor(d / 2) * PAGE_TOKENS + token) * 2 + (d % 2) : (Math.floor(token / 2) * headDim + d) * 2 + (token % 2);
}

/** The whole cache after the write, NaN where nothing was stored; of a float8_e4m3 cache what it stands for. k, v: [numTokens, numKvHeads, headDim]. */
export function cacheReference(c: CacheCase, keys: Float64Array, values: Float64Array): Float64Array {
  const { numKvHeads, headDim, numBlocks } = c;
  const k = c.fp8 ? throughFp8(keys, c.fp8.kScale) : keys;
  const v = c.fp8 ? throughFp8(values, c.fp8.vScale) : values;
  const page = PAGE_TOKENS * headDim;
  const cache = new Float64Array(numBlocks * 2 * numKvHeads * page).fill(NaN);
  c.slots.forEach((slot, t) => {
    if (slot < 0 || slot >= numBlocks * PAGE_TOKENS) return;
    const [block, token] = [Math.floor(slot / PAGE_TOKENS), slot % PAGE_TOKENS];
    for (let h = 0; h < numKvHeads; h++)
      for (let d = 0; d < headDim; d++) {
        const from = (t * numKvHeads + h) * headDim + d;
        cache[(block * 2 * numKvHeads + h) * page + pageIndex(c, 'k', token, d)] = k[from]!;
        cache[((block * 2 + 1) * numKvHeads + h) * page + pageIndex(c, 'v', token, d)] = v[from]!;
      }
  });
  return cache;
}
