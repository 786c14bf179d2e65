import type { ParallelConfig } from '../config/vllm';
import {
  abortCommunicator,
  allGather,
  allReduce,
  broadcast,
  communicatorAddress,
  connectCommunicator,
  createCommunicator,
  destroyCommunicator,
  reduceScatter,
  type CommunicatorId,
  type CommunicatorKind,
  type CommunicatorOptions,
} from '../ops/comm';
import { copyInto } from '../ops/copy';
import { output } from '../ops/run';
import type { Device } from '../tensor/device';
import { tensorScope } from '../tensor/scope';
import { contiguousStrides, type Tensor } from '../tensor/tensor';
import { KvasirError } from '../utils/errors';

/** What layers need of the group that their tensors are split over. */
export interface TensorParallelGroup {
  readonly rank: number;
  readonly size: number;
  /** Sum over ranks, in place; returns x. */
  allReduce(x: Tensor): Tensor;
  /** Concatenation of every rank's x along the last dimension. */
  allGather(x: Tensor): Tensor;
}

/**
 * One rank's end of a group. Every rank calls the same collectives in the same order with equal shapes and dtypes; they are queued on the
 * device's stream. When a rank is gone, the collectives of the others fail with ERR_KVASIR_RANK at the next fence, and so do all later
 * ones: the group is over. Its owner calls dispose() before it closes the device.
 */
export class Communicator implements TensorParallelGroup {
  private disposed = false;

  private constructor(
    private readonly id: CommunicatorId,
    readonly kind: CommunicatorKind,
    readonly rank: number,
    readonly size: number,
  ) {}

  /**
   * @param options.first rank 0's communicator, for the other ranks of a local group
   * @throws KvasirError ERR_KVASIR_UNSUPPORTED when this build or machine lacks the kind, ERR_KVASIR_LAUNCH for a rank, host or group that cannot be
   */
  static create(device: Device, options: CommunicatorOptions & { readonly first?: Communicator }): Communicator {
    const { kind, rank, size, first } = options;
    return new Communicator(createCommunicator(device, options, first?.id ?? null), kind, rank, size);
  }

  /** What the other ranks must know to reach this one. Only they should: who knows it can take a place in the group. */
  address(): Uint8Array {
    return communicatorAddress(this.id);
  }

  /**
   * Joins the ranks: all of them must connect at the same time.
   * @param addresses of all ranks, by rank
   * @throws KvasirError ERR_KVASIR_LAUNCH when they do not come together
   */
  connect(addresses: readonly Uint8Array[]): Promise<void> {
    return connectCommunicator(this.id, addresses);
  }

  /** x becomes the sum over the ranks, the same bits on each; floating dtypes, added in float32 and rounded once. Returns x. */
  allReduce(x: Tensor): Tensor {
    const dense = contiguous(x);
    allReduce(this.id, dense);
    if (dense !== x) copyInto(x, dense);
    return x;
  }

  /** [..., d] of each rank -> [..., size * d], by rank. Any dtype. */
  allGather(x: Tensor): Tensor {
    const { size } = this;
    const dense = contiguous(x);
    const width = x.size(-1);
    const rows = width === 0 ? 0 : x.numel / width;
    // One row is gathered into its place. The same tensors and ops are made for it as for many rows, where the copy puts them in place:
    // a planned forward pass must not depend on the batch.
    const inPlace = rows === 1;
    const gathered = output([size, inPlace ? 0 : rows, width], x.dtype);
    const out = output([...x.shape.slice(0, -1), size * width], x.dtype);
    allGather(this.id, inPlace ? out : gathered, dense);
    copyInto(tensorScope().view(out, out.byteOffset, gathered.shape, [width, size * width, 1]), gathered);
    return out;
  }

  /** [size * n, ...] of each rank -> [n, ...]: the sum over the ranks of their rows [rank * n, (rank + 1) * n). Dtypes of allReduce. */
  reduceScatter(x: Tensor): Tensor {
    const length = x.size(0);
    if (length % this.size !== 0)
      throw new KvasirError('ERR_KVASIR_TENSOR', `reduceScatter: the first dimension of ${x.describe()} must be a multiple of the ${this.size} ranks`);
    const out = output([length / this.size, ...x.shape.slice(1)], x.dtype);
    reduceScatter(this.id, out, contiguous(x));
    return out;
  }

  /** x becomes rank `root`'s; any dtype. Returns x. */
  broadcast(x: Tensor, root: number): Tensor {
    const dense = contiguous(x);
    broadcast(this.id, dense, root);
    if (dense !== x) copyInto(x, dense);
    return x;
  }

  /** Collectives that run or are queued, and later ones, fail with ERR_KVASIR_RANK instead of waiting, here and on the other ranks. */
  abort(): void {
    if (!this.disposed) abortCommunicator(this.id);
  }

  /** Leaves the group after the work queued so far. Collectives of other ranks that need this one then fail. */
  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    destroyCommunicator(this.id);
  }
}

/** x, or a copy of it where its rows have gaps. That a single row has none does not count: a forward pass must make the same ops for every batch. */
function contiguous(x: Tensor): Tensor {
  const expected = contiguousStrides(x.shape);
  if (x.strides.every((stride, i) => stride === expected[i])) return x;
  const dense = output(x.shape, x.dtype);
  copyInto(dense, x);
  return dense;
}

const groups = new WeakMap<ParallelConfig, TensorParallelGroup>();

/** Attaches the group that the ranks of this configuration talk in. */
export function setTensorParallelGroup(parallel: ParallelConfig, group: TensorParallelGroup): void {
  groups.set(parallel, group);
}

function groupOf(parallel: ParallelConfig): TensorParallelGroup {
  const group = groups.get(parallel);
  if (!group) throw new KvasirError('ERR_KVASIR_UNSUPPORTED', `tensorParallelSize ${parallel.tensorParallelSize} needs a communicator, and none is attached`);
  return group;
}

/** Sum over the tensor-parallel ranks; x itself for one rank. */
export function tensorParallelAllReduce(parallel: ParallelConfig, x: Tensor): Tensor {
  return parallel.tensorParallelSize === 1 ? x : groupOf(parallel).allReduce(x);
}

/** Concatenation over the tensor-parallel ranks along the last dimension; x itself for one rank. */
export function tensorParallelAllGather(parallel: ParallelConfig, x: Tensor): Tensor {
  return parallel.tensorParallelSize === 1 ? x : groupOf(parallel).allGather(x);
}
