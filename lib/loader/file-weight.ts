import type { DType } from '../config/vllm';
import type { LoadedWeight } from '../nn/parameter';
import { transposed } from '../nn/weight-views';
import { DTYPE_BYTES } from '../tensor/dtype';
import { loadFromFile } from '../tensor/file';
import { contiguousStrides, numElements, type Tensor } from '../tensor/tensor';
import { KvasirError } from '../utils/errors';
import type { CheckpointEntry } from './checkpoint';

/** A tensor of an open checkpoint as weight loaders see it: only what is copied is read from disk. */
export class FileWeight implements LoadedWeight {
  private constructor(
    readonly name: string,
    readonly dtype: DType,
    readonly shape: readonly number[],
    private readonly fd: number,
    private readonly byteOffset: number,
    private readonly strides: readonly number[],
  ) {}

  static of(entry: CheckpointEntry): FileWeight {
    return new FileWeight(entry.name, entry.dtype, entry.shape, entry.fd, entry.byteOffset, contiguousStrides(entry.shape));
  }

  get bytes(): number {
    return numElements(this.shape) * DTYPE_BYTES[this.dtype];
  }

  narrow(dim: number, start: number, length: number): FileWeight {
    const size = this.shape[dim];
    if (size === undefined || start < 0 || length < 0 || start + length > size)
      throw new KvasirError('ERR_KVASIR_WEIGHTS', `${this.name} has shape [${this.shape.join(', ')}], expected at least ${start + length} along dimension ${dim}`);
    const shape = this.shape.slice();
    shape[dim] = length;
    const offset = this.byteOffset + start * this.strides[dim]! * DTYPE_BYTES[this.dtype];
    return new FileWeight(this.name, this.dtype, shape, this.fd, offset, this.strides);
  }

  transpose(): LoadedWeight {
    return transposed(this);
  }

  copyInto(dest: Tensor): void {
    loadFromFile(dest, { fd: this.fd, byteOffset: this.byteOffset, dtype: this.dtype, shape: this.shape, strides: this.strides });
  }
}
