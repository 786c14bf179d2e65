import { copyInto } from '../ops/copy';
import { inScope, TemporaryScope } from '../tensor/scope';
import { DTYPE_BYTES } from '../tensor/dtype';
import { contiguousStrides, Tensor } from '../tensor/tensor';
import { KvasirError } from '../utils/errors';
import type { LoadedWeight } from './parameter';

/**
 * A matrix of a checkpoint with rows and columns exchanged. Files are read in rows, so what is wanted is read as it lies and
 * turned on the device.
 * @throws KvasirError ERR_KVASIR_WEIGHTS for other ranks
 */
export function transposed(weight: LoadedWeight): LoadedWeight {
  if (weight.shape.length !== 2) throw new KvasirError('ERR_KVASIR_WEIGHTS', `${weight.name} has shape [${weight.shape.join(', ')}], expected a matrix to transpose`);
  return new TransposedWeight(weight);
}

/** What all views share: everything but the shape is the original's. */
abstract class WeightView implements LoadedWeight {
  constructor(protected readonly original: LoadedWeight) {}

  get name(): string {
    return this.original.name;
  }

  get originalName(): string | undefined {
    return this.original.originalName;
  }

  get shardId(): LoadedWeight['shardId'] {
    return this.original.shardId;
  }

  get dtype(): LoadedWeight['dtype'] {
    return this.original.dtype;
  }

  abstract get shape(): readonly number[];
  abstract narrow(dim: number, start: number, length: number): LoadedWeight;
  abstract transpose(): LoadedWeight;
  abstract copyInto(dest: Tensor): void;
}

class TransposedWeight extends WeightView {
  get shape(): readonly number[] {
    return this.original.shape.slice().reverse();
  }

  narrow(dim: number, start: number, length: number): LoadedWeight {
    return new TransposedWeight(this.original.narrow(1 - dim, start, length));
  }

  transpose(): LoadedWeight {
    return this.original;
  }

  copyInto(dest: Tensor): void {
    const scope = new TemporaryScope(dest.device);
    try {
      inScope(scope, () => {
        const { shape } = this.original;
        const rows = scope.allocate(shape, dest.dtype);
        this.original.copyInto(rows);
        copyInto(dest, scope.view(rows, 0, this.shape, contiguousStrides(shape).reverse()));
      });
    } finally {
      scope.dispose();
    }
  }
}

/** A dimension of a checkpoint tensor that is [groups, parts, width], wanted as [parts, groups, width]. */
export interface Interleaving {
  readonly dim: number;
  readonly groups: number;
  readonly parts: number;
}

/**
 * A checkpoint tensor that holds its parts group by group (q, k and v of head 0, of head 1, ..), with each part in one piece. Only what
 * is copied is read.
 * @throws KvasirError ERR_KVASIR_WEIGHTS when the dimension has no such size
 */
export function deinterleaved(weight: LoadedWeight, { dim, groups, parts }: Interleaving): LoadedWeight {
  const size = weight.shape[dim];
  if (size === undefined || size % (groups * parts) !== 0)
    throw new KvasirError('ERR_KVASIR_WEIGHTS', `${weight.name} has shape [${weight.shape.join(', ')}], expected a multiple of ${groups} * ${parts} along dimension ${dim}`);
  return new DeinterleavedWeight(weight, { dim, groups, parts }, size / (groups * parts), 0, size);
}

/** Elements [start, start + length) of the dimension as it is wanted. */
class DeinterleavedWeight extends WeightView {
  constructor(
    original: LoadedWeight,
    private readonly interleaving: Interleaving,
    private readonly width: number,
    private readonly start: number,
    private readonly length: number,
  ) {
    super(original);
  }

  get shape(): readonly number[] {
    const shape = this.original.shape.slice();
    shape[this.interleaving.dim] = this.length;
    return shape;
  }

  narrow(dim: number, start: number, length: number): LoadedWeight {
    const { original, interleaving, width } = this;
    if (dim !== interleaving.dim) return new DeinterleavedWeight(original.narrow(dim, start, length), interleaving, width, this.start, this.length);
    if (start < 0 || length < 0 || start + length > this.length)
      throw new KvasirError('ERR_KVASIR_WEIGHTS', `${this.name} has shape [${this.shape.join(', ')}], expected at least ${start + length} along dimension ${dim}`);
    return new DeinterleavedWeight(original, interleaving, width, this.start + start, length);
  }

  transpose(): LoadedWeight {
    return transposed(this);
  }

  /** One piece after the other that lies together in the file. */
  copyInto(dest: Tensor): void {
    const { dim, groups, parts } = this.interleaving;
    const end = this.start + this.length;
    for (let at = this.start; at < end; ) {
      const block = Math.floor(at / this.width);
      const within = at % this.width;
      const length = Math.min(this.width - within, end - at);
      const place = (block % groups) * parts + Math.floor(block / groups);
      this.copyPiece(dest, at - this.start, this.original.narrow(dim, place * this.width + within, length));
      at += length;
    }
  }

  private copyPiece(dest: Tensor, start: number, piece: LoadedWeight): void {
    const offset = dest.byteOffset + start * dest.strides[this.interleaving.dim]! * DTYPE_BYTES[dest.dtype];
    const region = Tensor.view(dest.storage, dest.dtype, offset, piece.shape, dest.strides);
    try {
      piece.copyInto(region);
    } finally {
      region.dispose();
    }
  }
}
