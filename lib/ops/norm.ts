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

/**
 * (x - mean) / sqrt(var + eps) * weight + bias over each row, computed in float32 and rounded once.
 * @param x [numTokens, hiddenSize]
 * @param weight [hiddenSize]
 * @param bias [hiddenSize] or null
 */
export function layerNorm(x: Tensor, weight: Tensor, bias: Tensor | null, eps: number): Tensor {
  const out = output(x.shape, x.dtype);
  call('layerNorm', out, x, weight, bias, eps);
  return out;
}

/** Adds x to residual in place, then normalises the sum: returns layerNorm(residual). Same shapes as {@link layerNorm}. */
export function addLayerNorm(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor | null, eps: number): Tensor {
  const out = output(x.shape, x.dtype);
  call('addLayerNorm', out, x, residual, weight, bias, eps);
  return out;
}

/** x + y, both [numTokens, hiddenSize] of one dtype. */
export function add(x: Tensor, y: Tensor): Tensor {
  const out = output(x.shape, x.dtype);
  call('add', out, x, y);
  return out;
}
