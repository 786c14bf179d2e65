import type { DType } from '../config/vllm';
import type { Tensor } from '../tensor/tensor';
import { call, output } from './run';

/** A packed weight has a multiple of this many rows; whoever allocates it adds zero rows. */
export const PACK_ROWS = 64;

/** Whether a weight of this dtype and number of columns has a packed form; others work as they are, slower. */
export function canPackLinear(dtype: DType, inFeatures: number): boolean {
  if (dtype === 'bfloat16') return inFeatures % 2 === 0;
  return dtype === 'float32' || dtype === 'float16';
}

/**
 * Rearranges a weight in place for {@link linear} and marks it as packed. It takes no more memory.
 * @param weight [outFeatures, inFeatures], contiguous, owning its rows; outFeatures a multiple of {@link PACK_ROWS}
 * @throws ERR_KVASIR_TENSOR for other shapes, and when {@link canPackLinear} says no
 */
export function packLinear(weight: Tensor): void {
  call('packLinear', weight);
  weight.markPacked();
}

/**
 * x @ weight^T + bias, summed in float32 and rounded once. A row's result does not depend on the other rows; on CUDA, where the number
 * of rows selects the kernel, it does so bit for bit only with `batchInvariant` (see GemmOptions in lib/tensor/device.ts).
 * @param x [numTokens, inFeatures], rows may be strided
 * @param weight [outFeatures, inFeatures], dtype of x, packed or not
 * @param bias [outFeatures], dtype of x or float32
 * @param outFeatures columns to compute; less than weight's rows if a packed weight was padded
 * @param dtype of the result: that of x, or float32
 */
export function linear(x: Tensor, weight: Tensor, bias: Tensor | null = null, outFeatures = weight.size(0), dtype: DType = x.dtype): Tensor {
  const out = output([x.size(0), outFeatures], dtype);
  linearInto(out, x, weight, bias);
  return out;
}

/** {@link linear} into a given tensor [numTokens, outFeatures], whose rows may be strided. */
export function linearInto(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | null = null): void {
  call('linear', out, x, weight, bias);
}
