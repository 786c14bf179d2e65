import { loadBinding, wrapNativeError } from '../binding/load';
import type { DType } from '../config/vllm';
import { DTYPE_IDS } from './dtype';
import type { Tensor } from './tensor';

/** A tensor inside an open file: element (i, j, ..) stands at byteOffset + (i * strides[0] + j * strides[1] + ..) * element size. */
export interface FileTensor {
  readonly fd: number;
  readonly byteOffset: number;
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** In elements; the innermost is 1. */
  readonly strides: readonly number[];
}

/**
 * Queues reading `source` into `dest` (equal shapes, converted to its dtype). The file must stay open until the device
 * was synchronized; a short read is ERR_KVASIR_CHECKPOINT there.
 * @returns bytes that are read from the file: those of `source`, and gaps where its rows are so short that it is faster to read them too
 */
export function loadFromFile(dest: Tensor, source: FileTensor): number {
  try {
    return loadBinding().loadFromFile(dest.row, source.fd, source.byteOffset, DTYPE_IDS[source.dtype], source.shape, source.strides);
  } catch (error) {
    throw wrapNativeError(error);
  }
}
