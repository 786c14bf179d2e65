import type { DType } from '../config/vllm';
import type { Tensor } from '../tensor/tensor';
import { call, output } from './run';

/** x converted to a dtype, contiguous. Floating types convert among each other. */
export function cast(x: Tensor, dtype: DType): Tensor {
  const out = output(x.shape, dtype);
  call('copy', out, x);
  return out;
}

/** out = x, converted; equal shapes, any strides. */
export function copyInto(out: Tensor, x: Tensor): void {
  call('copy', out, x);
}

/** Rows x[indices[i], :]. x [numTokens, width], indices int32 [numRows]. */
export function gatherRows(x: Tensor, indices: Tensor): Tensor {
  const out = output([indices.size(0), x.size(1)], x.dtype);
  call('gatherRows', out, x, indices);
  return out;
}

/** out[indices[i]] = values[i], in place. All int32 with one dimension; indices out of range store nothing. */
export function scatterElements(out: Tensor, indices: Tensor, values: Tensor): void {
  call('scatterElements', out, indices, values);
}

/** out[i] = x[indices[i]] where indices[i] >= 0, in place; the others stay. All int32 with one dimension. */
export function selectElements(out: Tensor, x: Tensor, indices: Tensor): void {
  call('selectElements', out, x, indices);
}

/** Every element = value. */
export function fill(x: Tensor, value: number): void {
  call('fill', x, value);
}

/** Uniform values in [-scale, scale) that depend only on (seed, index): dummy weights. */
export function fillRandom(x: Tensor, seed: number, scale: number): void {
  call('fillRandom', x, seed, scale);
}
