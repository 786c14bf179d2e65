import type { DType } from '../config/vllm';
import type { LoadedWeight } from '../nn/parameter';
import { transposed } from '../nn/weight-views';
import { DTYPE_BYTES } from '../tensor/dtype';
import { loadFromFile } from '../tensor/file';
import { contiguousStrides, numElements, type Tensor } from '../tensor/tensor';
import { KvasirError } from '../utils/errors';
import type { CheckpointEntry } from './checkpoint';

/** Counts what is read from the files of a checkpoint. */
export interface ReadCounter {
  bytesRead: number;
}

/** A tensor of an open checkpoint as weight loaders see it: only what is copied is read from disk. */
export class FileWeight implements LoadedWeight {
  private constructor(
    readonly name: string,
    readonly dtype: DType,
    readonly shape: readonly number[],
    private readonly fd: number,
    private readonly byteOffset: number,
    private readonly strides: readonly number[],
    private readonly counter: ReadCounter | null,
  ) {}

  /** @param counter counts reads of this tensor and of its parts as they are queued */
  static of(entry: CheckpointEntry, counter: ReadCounter | null = null): FileWeight {
    return new FileWeight(entry.name, entry.dtype, entry.shape, entry.fd, entry.byteOffset, contiguousStrides(entry.shape), counter);
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
    return new FileWeight(this.name, this.dtype, shape, this.fd, offset, this.strides, this.counter);
  }

  transpose(): LoadedWeight {
    return transposed(this);
  }

  copyInto(dest: Tensor): void {
    const { fd, byteOffset, dtype, shape, strides, counter } = this;
    const bytes = loadFromFile(dest, { fd, byteOffset, dtype, shape, strides });
    if (counter) counter.bytesRead += bytes;
  }
}
