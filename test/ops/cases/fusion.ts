import { geluAndMul, geluTanhAndMul, siluAndMul } from '../../../lib/ops/activation';
import type { Tensor } from '../../../lib/tensor/tensor';
import type { FloatType } from '../harness';
import type { RopeCase } from './rope';

/** Rotary embedding followed by the cache write: a backend may run both as one kernel. */
export interface RopeCacheCase extends RopeCase {
  /** Slot of each token; negative ones are not stored. */
  readonly slots: readonly number[];
  /** Heads are normalised first (normRope). */
  readonly norm: boolean;
}

export const FUSION_BLOCKS = 4;

export const ROPE_CACHE_CASES: readonly RopeCacheCase[] = (['float32', 'float16', 'bfloat16'] as const).flatMap((dtype) =>
  (
    [
      [32, 8, 64, 64, true, [21]],
      [32, 8, 128, 128, true, [5, 63]],
      [4, 2, 80, 32, true, [0, -1, 17, 16, 15]],
      [3, 1, 96, 48, false, [47, 46, -1, 3]],
      [2, 2, 22, 22, true, [7, 8, 9]],
      [8, 1, 256, 64, false, Array.from({ length: 40 }, (_, i) => (i % 7 === 3 ? -1 : 63 - i))],
    ] as const
  ).flatMap(([numHeads, numKvHeads, headDim, rotaryDim, isNeox, slots]) =>
    [false, true].map((norm) => ({ dtype, numTokens: slots.length, numHeads, numKvHeads, headDim, rotaryDim, isNeox, slots, norm })),
  ),
);

/** A merged gate and up projection followed by its activation. */
export interface GatedCase {
  readonly dtype: FloatType;
  readonly numTokens: number;
  readonly size: number;
  readonly inFeatures: number;
  readonly act: 'silu' | 'gelu' | 'geluTanh';
  readonly bias: boolean;
  readonly packed: boolean;
}

export const GATED_OPS: Readonly<Record<GatedCase['act'], (x: Tensor) => Tensor>> = { silu: siluAndMul, gelu: geluAndMul, geluTanh: geluTanhAndMul };

export const GATED_CASES: readonly GatedCase[] = (['float32', 'float16', 'bfloat16'] as const).flatMap((dtype) =>
  (
    [
      [1, 64, 256, 'silu', false, true],
      [2, 96, 512, 'silu', true, true],
      [1, 1, 8, 'gelu', true, false],
      [2, 13, 2056, 'geluTanh', false, false],
      [1, 13, 4096, 'gelu', true, false],
      [1, 6, 9216, 'silu', false, false],
      [3, 32, 128, 'silu', false, true],
      [1, 20, 13, 'silu', true, false],
    ] as const
  ).map(([numTokens, size, inFeatures, act, bias, packed]) => ({ dtype, numTokens, size, inFeatures, act, bias, packed })),
);
