import type { Tensor } from '../tensor/tensor';
import { call, output } from './run';

/**
 * x / sqrt(mean(x^2) + eps) * weight, computed in float32.
 * @param x [numTokens, hiddenSize]
 * @param weight [hiddenSize]
 * @param gemma multiply by (1 + weight) and round once, as Gemma does; otherwise round before the weight, as Llama does
 */
export function rmsNorm(x: Tensor, weight: Tensor, eps: number, gemma = false): Tensor {
  const out = output(x.shape, x.dtype);
  call('rmsNorm', out, x, weight, eps, gemma);
  return out;
}

/** Adds x to residual in place, then normalises the sum: returns rmsNorm(residual). Same shapes as {@link rmsNorm}. */
export function addRmsNorm(x: Tensor, residual: Tensor, weight: Tensor, eps: number, gemma = false): Tensor {
  const out = output(x.shape, x.dtype);
  call('addRmsNorm', out, x, residual, weight, eps, gemma);
  return out;
}
