import type { DType } from '../config/vllm';
import type { Tensor } from '../tensor/tensor';
import { call, output } from './run';

/**
 * Linear layers with quantized weights. Canonical storage (row-major, what loading fills; the whole text stands in native/ops/quant.h):
 * - int4: weight uint8 [out, in / 2], element k of a row in byte k / 2, even k in the low nibble; scales [out, groups]; zeros uint8
 *   [out, groups] (0..16), or null for 8 everywhere. w = (q - zero) * scale
 * - int8: weight int8 [out, in]; scales [out, groups]. w = q * scale
 * - fp8: weight float8_e4m3 [out, in]; scales float32 [ceil(out / blockN), ceil(in / blockK)], or [out] for one scale per row
 *
 * Scales of int4 and int8 are float32, float16 or bfloat16: keep the checkpoint's type, it is read with every weight. groups is 1 or
 * in / groups is a multiple of 8 (int4) or 4 (int8). Any number of outputs works, packed or not; nothing has to be padded.
 */

/**
 * How a checkpoint packs integers into int32 words: GPTQ along the inputs (zero points stored less one), GPTQ v2 (zero points as they
 * are), AWQ along the outputs in the order 0, 2, 4, 6, 1, 3, 5, 7, compressed-tensors along the inputs of each output.
 */
export type PackFormat = 'gptq' | 'gptq_v2' | 'awq' | 'compressed';

/** Numbers of native/ops/quant.h. */
const FORMAT_IDS: Readonly<Record<PackFormat, number>> = { gptq: 0, gptq_v2: 1, awq: 2, compressed: 3 };

/** How linearFp8 may round its input, where the backend multiplies in fp8. The CPU multiplies in bfloat16 or float32 and never rounds it. */
export type Fp8Activation = 'none' | 'dynamic' | { readonly staticScale: number };

/**
 * A checkpoint's int4 words into the canonical order.
 * @param out uint8 [out, in / 2]
 * @param source int32: gptq [in / 8, out], awq [in, out / 8], compressed [out, ceil(in / 8)]
 */
export function repackInt4(out: Tensor, source: Tensor, format: PackFormat): void {
  call('repackInt4', out, source, FORMAT_IDS[format]);
}

/**
 * A checkpoint's zero points into the canonical order.
 * @param out uint8 [out, groups]
 * @param source int32: gptq and awq [groups, out / 8], compressed [ceil(out / 8), groups]
 */
export function unpackZeros(out: Tensor, source: Tensor, format: PackFormat): void {
  call('unpackZeros', out, source, FORMAT_IDS[format]);
}

/**
 * A checkpoint's unsigned bytes less 128.
 * @param out int8 [out, in]
 * @param source int32: gptq [in / 4, out], compressed [out, ceil(in / 4)]
 */
export function repackInt8(out: Tensor, source: Tensor, format: Exclude<PackFormat, 'awq'>): void {
  call('repackInt8', out, source, FORMAT_IDS[format]);
}

/** Whether packInt4 takes a weight with this many inputs; others work as they are, slower. */
export const canPackInt4 = (inFeatures: number): boolean => inFeatures % 8 === 0;
/** Whether packInt8 and packFp8 take a weight with this many inputs; others work as they are, slower. */
export const canPackBytes = (inFeatures: number): boolean => inFeatures % 4 === 0;

/**
 * Rearranges a weight with its scales and zeros in place for {@link linearInt4} and marks them as packed.
 * @throws ERR_KVASIR_TENSOR for other shapes and when {@link canPackInt4} says no
 */
export function packInt4(weight: Tensor, scales: Tensor, zeros: Tensor | null): void {
  call('packInt4', weight, scales, zeros);
  weight.markPacked();
  scales.markPacked();
  zeros?.markPacked();
}

/** Rearranges a weight with its scales in place for {@link linearInt8} and marks them as packed; see {@link canPackBytes}. */
export function packInt8(weight: Tensor, scales: Tensor): void {
  call('packInt8', weight, scales);
  weight.markPacked();
  scales.markPacked();
}

/** Rearranges a weight in place for {@link linearFp8} and marks it as packed; its scales stay as they are. See {@link canPackBytes}. */
export function packFp8(weight: Tensor): void {
  call('packFp8', weight);
  weight.markPacked();
}

/**
 * x @ w^T + bias with int4 weights. A float32 x is multiplied in float32 whatever the flag; a row's result does not depend on the others.
 * @param x [numTokens, in], rows may be strided
 * @param bias [out], dtype of x or float32
 * @param dynamicActivation allows to round x to int8, with one scale per token and group of the weight, or (CPU) at most 128 inputs
 * @param dtype of the result: that of x, or float32
 */
export function linearInt4(
  x: Tensor,
  weight: Tensor,
  scales: Tensor,
  zeros: Tensor | null,
  bias: Tensor | null,
  dynamicActivation: boolean,
  dtype: DType = x.dtype,
): Tensor {
  const out = output([x.size(0), weight.size(0)], dtype);
  linearInt4Into(out, x, weight, scales, zeros, bias, dynamicActivation);
  return out;
}

/** {@link linearInt4} into a given tensor [numTokens, out], whose rows may be strided. */
export function linearInt4Into(
  out: Tensor,
  x: Tensor,
  weight: Tensor,
  scales: Tensor,
  zeros: Tensor | null,
  bias: Tensor | null,
  dynamicActivation: boolean,
): void {
  call('linearInt4', out, x, weight, scales, zeros, bias, dynamicActivation);
}

/** {@link linearInt4} with symmetric int8 weights. */
export function linearInt8(
  x: Tensor,
  weight: Tensor,
  scales: Tensor,
  bias: Tensor | null,
  dynamicActivation: boolean,
  dtype: DType = x.dtype,
): Tensor {
  const out = output([x.size(0), weight.size(0)], dtype);
  linearInt8Into(out, x, weight, scales, bias, dynamicActivation);
  return out;
}

/** {@link linearInt8} into a given tensor [numTokens, out], whose rows may be strided. */
export function linearInt8Into(out: Tensor, x: Tensor, weight: Tensor, scales: Tensor, bias: Tensor | null, dynamicActivation: boolean): void {
  call('linearInt8', out, x, weight, scales, bias, dynamicActivation);
}

/** How many outputs and inputs share one scale of an fp8 weight. */
export interface Fp8Blocks {
  readonly blockN: number;
  /** A multiple of 4, or all inputs. */
  readonly blockK: number;
}

/**
 * x @ w^T + bias with float8_e4m3 weights; one scale per row is blocks { blockN: 1, blockK: in }. A float32 x is multiplied in float32.
 * @param x [numTokens, in], rows may be strided
 * @param bias [out], dtype of x or float32
 * @param dtype of the result: that of x, or float32
 */
export function linearFp8(
  x: Tensor,
  weight: Tensor,
  scales: Tensor,
  bias: Tensor | null,
  blocks: Fp8Blocks,
  activation: Fp8Activation,
  dtype: DType = x.dtype,
): Tensor {
  const out = output([x.size(0), weight.size(0)], dtype);
  linearFp8Into(out, x, weight, scales, bias, blocks, activation);
  return out;
}

/** {@link linearFp8} into a given tensor [numTokens, out], whose rows may be strided. */
export function linearFp8Into(
  out: Tensor,
  x: Tensor,
  weight: Tensor,
  scales: Tensor,
  bias: Tensor | null,
  blocks: Fp8Blocks,
  activation: Fp8Activation,
): void {
  const kind = activation === 'none' ? 0 : activation === 'dynamic' ? 1 : 2;
  const inputScale = typeof activation === 'object' ? activation.staticScale : 1;
  call('linearFp8', out, x, weight, scales, bias, blocks.blockN, blocks.blockK, kind, inputScale);
}

/**
 * Rounds each row of a weight to fp8 with its own scale, largest magnitude / 448.
 * @param weight float8_e4m3 [out, in], written
 * @param scales float32 [out] or [out, 1], written
 * @param source floating [out, in], rows may be strided
 */
export function quantizeFp8(weight: Tensor, scales: Tensor, source: Tensor): void {
  call('quantizeFp8', weight, scales, source);
}
