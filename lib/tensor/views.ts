import { KvasirError } from '../utils/errors';
import { DTYPE_BYTES } from './dtype';
import { tensorScope } from './scope';
import { contiguousStrides, numElements, type Tensor } from './tensor';

/** Elements [start, start + length) along a dimension; no copy. */
export function narrow(tensor: Tensor, dim: number, start: number, length: number): Tensor {
  const axis = tensor.axis(dim);
  if (!Number.isInteger(start) || !Number.isInteger(length) || start < 0 || length < 0 || start + length > tensor.shape[axis]!)
    throw new KvasirError('ERR_KVASIR_TENSOR', `cannot take [${start}, ${start + length}) of dimension ${dim} of ${tensor.describe()}`);
  const shape = tensor.shape.slice();
  shape[axis] = length;
  const offset = tensor.byteOffset + start * tensor.strides[axis]! * DTYPE_BYTES[tensor.dtype];
  return tensorScope().view(tensor, offset, shape, tensor.strides);
}

/** Consecutive parts along a dimension, of the given sizes; no copy. */
export function split(tensor: Tensor, sizes: readonly number[], dim = -1): Tensor[] {
  const axis = tensor.axis(dim);
  const total = sizes.reduce((a, b) => a + b, 0);
  if (total !== tensor.shape[axis])
    throw new KvasirError('ERR_KVASIR_TENSOR', `split sizes [${sizes.join(', ')}] sum to ${total}, expected ${tensor.shape[axis]} of ${tensor.describe()}`);
  let start = 0;
  return sizes.map((size) => {
    const part = narrow(tensor, axis, start, size);
    start += size;
    return part;
  });
}

/**
 * The same elements with another shape; no copy. The last dimension may be cut into several (views of merged
 * projections: rows with gaps), otherwise the tensor must be contiguous.
 */
export function reshape(tensor: Tensor, shape: readonly number[]): Tensor {
  if (numElements(shape) !== tensor.numel)
    throw new KvasirError('ERR_KVASIR_TENSOR', `cannot reshape ${tensor.describe()} to [${shape.join(', ')}]: other number of elements`);
  checkPlain(tensor);
  const strides = stridesFor(tensor, shape);
  return tensorScope().view(tensor, tensor.byteOffset, shape, strides);
}

/** The order of elements in a packed weight is the backend's own: a view of it would mean other elements. */
function checkPlain(tensor: Tensor): void {
  if (tensor.packed) throw new KvasirError('ERR_KVASIR_TENSOR', `a packed weight (${tensor.describe()}) has no views`);
}

/** Strides of the new shape: free choice when contiguous, otherwise only the last dimension may be cut. */
function stridesFor(tensor: Tensor, shape: readonly number[]): number[] {
  if (tensor.isContiguous()) return contiguousStrides(shape);
  const outer = tensor.rank - 1;
  const samePrefix = shape.length >= outer && tensor.shape.slice(0, outer).every((size, i) => shape[i] === size);
  if (!samePrefix || tensor.strides[outer] !== 1)
    throw new KvasirError('ERR_KVASIR_TENSOR', `cannot reshape ${tensor.describe()} with gaps to [${shape.join(', ')}] without a copy`);
  return [...tensor.strides.slice(0, outer), ...contiguousStrides(shape.slice(outer))];
}
