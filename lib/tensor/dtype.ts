import type { DType } from '../config/vllm';

/** Numbers of native/core/dtype.h. */
export const DTYPE_IDS: Readonly<Record<DType, number>> = {
  float32: 0,
  float16: 1,
  bfloat16: 2,
  int32: 3,
  int64: 4,
  uint8: 5,
  int8: 6,
  float8_e4m3: 7,
};

/** Bytes per element. */
export const DTYPE_BYTES: Readonly<Record<DType, number>> = {
  float32: 4,
  float16: 2,
  bfloat16: 2,
  int32: 4,
  int64: 8,
  uint8: 1,
  int8: 1,
  float8_e4m3: 1,
};

/** The typed array whose elements are those of a dtype; 16-bit floats show their bits. */
export function viewOf(dtype: DType, buffer: ArrayBuffer): Float32Array | Uint16Array | Int32Array | BigInt64Array | Uint8Array | Int8Array {
  switch (dtype) {
    case 'float32':
      return new Float32Array(buffer);
    case 'float16':
    case 'bfloat16':
      return new Uint16Array(buffer);
    case 'int32':
      return new Int32Array(buffer);
    case 'int64':
      return new BigInt64Array(buffer);
    case 'int8':
      return new Int8Array(buffer);
    default:
      return new Uint8Array(buffer);
  }
}
