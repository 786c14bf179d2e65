import { loadBinding, wrapNativeError } from '../binding/load';
import type { Row } from '../binding/native';
import type { DType } from '../config/vllm';
import { KvasirError } from '../utils/errors';
import type { Device, Storage } from './device';
import { DTYPE_BYTES, viewOf } from './dtype';
import { checkShape, DISPOSED_ROW, tensorTable } from './table';

export function numElements(shape: readonly number[]): number {
  let n = 1;
  for (const size of shape) n *= size;
  return n;
}

export function contiguousStrides(shape: readonly number[]): number[] {
  const strides = new Array<number>(shape.length);
  let stride = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    strides[i] = stride;
    stride *= shape[i]!;
  }
  return strides;
}

/**
 * A view of a storage: a plain object owning one row of the tensor table. A tensor without a storage exists only while a
 * forward pass is planned (shapes, no memory). Views made inside a forward pass belong to the workspace; others are
 * disposed by whoever made them.
 */
export class Tensor {
  private constructor(
    private rowNumber: Row,
    private storageOrNull: Storage | null,
    readonly dtype: DType,
    private offset: number,
    private dims: readonly number[],
    private steps: readonly number[],
    private isPacked: boolean,
  ) {}

  static view(storage: Storage | null, dtype: DType, byteOffset: number, shape: readonly number[], strides: readonly number[]): Tensor {
    checkShape(shape);
    const tensor = new Tensor(tensorTable().allocateRow(), storage, dtype, byteOffset, shape, strides, false);
    tensor.store();
    return tensor;
  }

  get row(): Row {
    return this.rowNumber;
  }

  get shape(): readonly number[] {
    return this.dims;
  }

  /** In elements. */
  get strides(): readonly number[] {
    return this.steps;
  }

  get byteOffset(): number {
    return this.offset;
  }

  get storage(): Storage | null {
    return this.storageOrNull;
  }

  /** True for weights in a backend's private arrangement. */
  get packed(): boolean {
    return this.isPacked;
  }

  get device(): Device {
    if (!this.storageOrNull) throw new KvasirError('ERR_KVASIR_DISPOSED', 'the tensor has no memory');
    return this.storageOrNull.device;
  }

  get numel(): number {
    return numElements(this.dims);
  }

  get rank(): number {
    return this.dims.length;
  }

  /** Size of a dimension; negative counts from the end. */
  size(dim: number): number {
    return this.dims[this.axis(dim)]!;
  }

  axis(dim: number): number {
    const axis = dim < 0 ? dim + this.dims.length : dim;
    if (!Number.isInteger(axis) || axis < 0 || axis >= this.dims.length)
      throw new KvasirError('ERR_KVASIR_TENSOR', `dimension ${dim} does not exist in ${this.describe()}`);
    return axis;
  }

  isContiguous(): boolean {
    let expected = 1;
    for (let i = this.dims.length - 1; i >= 0; i--) {
      if (this.dims[i] !== 1 && this.steps[i] !== expected) return false;
      expected *= this.dims[i]!;
    }
    return true;
  }

  /** Points this tensor elsewhere; its row stays. For the workspace, which moves the same objects from step to step. */
  rebind(storage: Storage | null, byteOffset: number, shape: readonly number[], strides: readonly number[]): void {
    checkShape(shape);
    this.storageOrNull = storage;
    this.offset = byteOffset;
    this.dims = shape;
    this.steps = strides;
    this.store();
  }

  markPacked(): void {
    this.isPacked = true;
    this.store();
  }

  /** Stores the elements of `data` (a copy is taken now) after the work queued so far. */
  write(data: NodeJS.TypedArray): void {
    if (data.length > this.numel) throw new KvasirError('ERR_KVASIR_TENSOR', `${data.length} elements do not fit ${this.describe()}`);
    try {
      loadBinding().write(this.row, data);
    } catch (error) {
      throw wrapNativeError(error);
    }
  }

  /** The elements after the work queued so far; 16-bit floats as their bits. */
  async read(): Promise<ReturnType<typeof viewOf>> {
    try {
      return viewOf(this.dtype, await loadBinding().read(this.row));
    } catch (error) {
      throw wrapNativeError(error);
    }
  }

  /** Gives the row back; the storage stays. Ops on the tensor then fail with ERR_KVASIR_DISPOSED. */
  dispose(): void {
    this.storageOrNull = null;
    if (this.rowNumber === DISPOSED_ROW) return;
    tensorTable().freeRow(this.rowNumber);
    this.rowNumber = DISPOSED_ROW;
  }

  /** Gives the row back and frees the storage. */
  disposeStorage(): void {
    const storage = this.storageOrNull;
    this.dispose();
    storage?.dispose();
  }

  describe(): string {
    return `${this.dtype} [${this.dims.join(', ')}]`;
  }

  private store(): void {
    if (this.rowNumber === DISPOSED_ROW) throw new KvasirError('ERR_KVASIR_DISPOSED', `the tensor ${this.describe()} was disposed`);
    tensorTable().write(this.row, this.storageOrNull?.id ?? -1, this.dtype, this.offset, this.dims, this.steps, this.isPacked);
  }
}

/** Byte distance between a tensor's start and element `index` along `dim`. */
export function byteOffsetOf(tensor: Tensor, dim: number, index: number): number {
  return index * tensor.strides[dim]! * DTYPE_BYTES[tensor.dtype];
}
