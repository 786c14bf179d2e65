import { geluAndMul, geluTanhAndMul, gelu, geluTanh, relu, scale, silu, siluAndMul, softCap } from '../../../lib/ops/activation';
import type { Tensor } from '../../../lib/tensor/tensor';
import type { FloatType } from '../harness';

export interface ActivationCase {
  readonly name: string;
  readonly op: (x: Tensor) => Tensor;
  readonly gated: boolean;
  readonly reference: (x: number) => number;
}

/** Series below 3, continued fraction (Lentz) above: full float64 accuracy in the tail too. */
export function erfc(z: number): number {
  if (z < 0) return 2 - erfc(-z);
  if (z < 3) {
    let term = z;
    let sum = z;
    for (let n = 1; n < 120; n++) {
      term *= (-z * z) / n;
      sum += term / (2 * n + 1);
    }
    return 1 - (2 / Math.sqrt(Math.PI)) * sum;
  }
  let fraction = 0;
  for (let n = 80; n > 0; n--) fraction = n / 2 / (z + fraction);
  return Math.exp(-z * z) / Math.sqrt(Math.PI) / (z + fraction);
}

const siluReference = (x: number): number => x / (1 + Math.exp(-x));
const geluReference = (x: number): number => 0.5 * x * erfc(-x / Math.SQRT2);
const geluTanhReference = (x: number): number => x / (1 + Math.exp(-2 * Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));

export const ACTIVATION_CASES: readonly ActivationCase[] = [
  { name: 'siluAndMul', op: siluAndMul, gated: true, reference: siluReference },
  { name: 'geluAndMul', op: geluAndMul, gated: true, reference: geluReference },
  { name: 'geluTanhAndMul', op: geluTanhAndMul, gated: true, reference: geluTanhReference },
  { name: 'silu', op: silu, gated: false, reference: siluReference },
  { name: 'gelu', op: gelu, gated: false, reference: geluReference },
  { name: 'geluTanh', op: geluTanh, gated: false, reference: geluTanhReference },
  { name: 'relu', op: relu, gated: false, reference: (x) => Math.max(x, 0) },
];

/** Functions with a parameter. The values of x spread over `spread`. */
export const PARAMETER_CASES: readonly (Omit<ActivationCase, 'gated'> & { readonly spread: number })[] = [
  { name: 'scale by 0.25', op: (x) => scale(x, 0.25), reference: (x) => x * 0.25, spread: 3 },
  { name: 'scale by -60', op: (x) => scale(x, -60), reference: (x) => x * -60, spread: 3 },
  { name: 'softCap 30 of small values', op: (x) => softCap(x, 30), reference: (x) => 30 * Math.tanh(x / 30), spread: 1 },
  { name: 'softCap 30 of logits', op: (x) => softCap(x, 30), reference: (x) => 30 * Math.tanh(x / 30), spread: 40 },
  { name: 'softCap 0.5', op: (x) => softCap(x, 0.5), reference: (x) => 0.5 * Math.tanh(x / 0.5), spread: 1 },
];

/** [numTokens, size of out]. */
export const ACTIVATION_SHAPES: readonly (readonly [number, number])[] = [
  [1, 5],
  [7, 64],
  [3, 173],
  [2, 14336],
];

/** Allowed |error| / |expected|: float32 polynomials, or half a unit in the last place and a little. */
export const ACTIVATION_TOLERANCE: Record<FloatType, number> = { float32: 2e-6, float16: 5.5e-4, bfloat16: 4.2e-3 };
