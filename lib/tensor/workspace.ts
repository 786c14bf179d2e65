import type { DType } from '../config/vllm';
import { KvasirError } from '../utils/errors';
import { planArena } from './arena';
import type { Device, Storage } from './device';
import { DTYPE_BYTES } from './dtype';
import { inScope, type TensorScope } from './scope';
import { contiguousStrides, numElements, Tensor } from './tensor';

interface Entry {
  readonly tensor: Tensor;
  /** Entry whose memory this is a view of; itself for allocations; null for views of memory outside the workspace. */
  root: Entry | null;
  readonly isView: boolean;
  bytes: number;
  first: number;
  last: number;
  offset: number;
}

/**
 * The activations of one piece of forward code. {@link plan} runs it once with shapes only, at the largest batch, and
 * lays all outputs out in one arena; {@link run} runs it for real: the k-th tensor made gets the k-th planned place.
 * Addresses are the same in every step, tensors and rows are reused, and nothing is allocated.
 */
export class Workspace {
  private readonly entries: Entry[] = [];
  private readonly byTensor = new Map<Tensor, Entry>();
  private storage: Storage | null = null;
  private ownsStorage = false;
  private cursor = 0;
  private plannedOps = 0;
  private arenaBytes = 0;

  /** Bytes of the arena, after {@link plan}. */
  get bytes(): number {
    return this.arenaBytes;
  }

  /**
   * Records `fn`, which must make the same tensors in the same order whatever the batch. What it returns stays valid
   * until the next run. Allocates nothing.
   */
  plan(fn: () => readonly Tensor[]): void {
    if (this.entries.length) throw new KvasirError('ERR_KVASIR_PLAN', 'a workspace is planned once');
    const scope = this.planScope();
    const results = inScope(scope, fn);
    this.plannedOps = scope.ops;
    for (const tensor of results) {
      const root = this.byTensor.get(tensor)?.root;
      if (root) root.last = Number.MAX_SAFE_INTEGER;
    }
    const roots = this.entries.filter((e) => !e.isView);
    const { offsets, bytes } = planArena(roots);
    roots.forEach((entry, i) => (entry.offset = offsets[i]!));
    this.arenaBytes = bytes;
  }

  /** Takes the arena from the device. */
  materialize(device: Device): void {
    this.storage = device.allocate(this.arenaBytes);
    this.ownsStorage = true;
  }

  /** Takes the memory of another workspace, of at least as many bytes, instead: a run of either ends what the other returned. */
  share(other: Workspace): void {
    if (!other.storage || other.bytes < this.bytes)
      throw new KvasirError('ERR_KVASIR_PLAN', `a workspace of ${this.bytes} bytes cannot share the ${other.storage ? other.bytes : 0} bytes that another one has`);
    this.storage = other.storage;
  }

  /** Runs `fn` for real. */
  run<T>(fn: () => T): T {
    if (!this.storage) throw new KvasirError('ERR_KVASIR_PLAN', 'the workspace has no memory yet');
    this.cursor = 0;
    this.runScope.ops = 0;
    const result = inScope(this.runScope, fn);
    if (this.cursor !== this.entries.length || this.runScope.ops !== this.plannedOps)
      throw new KvasirError(
        'ERR_KVASIR_PLAN',
        `forward() made ${this.cursor} tensors with ${this.runScope.ops} ops, expected ${this.entries.length} with ${this.plannedOps} as planned`,
      );
    return result;
  }

  dispose(): void {
    for (const entry of this.entries.splice(0)) entry.tensor.dispose();
    this.byTensor.clear();
    if (this.ownsStorage) this.storage?.dispose();
    this.storage = null;
  }

  private planScope(): TensorScope {
    const add = (tensor: Tensor, base: Entry | null, isView: boolean, bytes: number): Tensor => {
      const entry: Entry = { tensor, root: base, isView, bytes, first: scope.ops, last: scope.ops, offset: 0 };
      if (!isView) entry.root = entry;
      this.entries.push(entry);
      this.byTensor.set(tensor, entry);
      return tensor;
    };
    const scope: TensorScope = {
      planning: true,
      ops: 0,
      allocate: (shape, dtype) => add(Tensor.view(null, dtype, 0, shape, contiguousStrides(shape)), null, false, numElements(shape) * DTYPE_BYTES[dtype]),
      view: (base, byteOffset, shape, strides) =>
        add(Tensor.view(base.storage, base.dtype, byteOffset, shape, strides), this.byTensor.get(base)?.root ?? null, true, 0),
      touch: (tensors) => {
        for (const tensor of tensors) {
          const root = this.byTensor.get(tensor)?.root;
          if (root) root.last = Math.max(root.last, scope.ops);
        }
      },
    };
    return scope;
  }

  private readonly runScope: TensorScope = {
    planning: false,
    ops: 0,
    allocate: (shape, dtype) => this.place(shape, dtype),
    view: (base, byteOffset, shape, strides) => this.placeView(base, byteOffset, shape, strides),
    touch: () => undefined,
  };

  private next(isView: boolean, dtype: DType): Entry {
    const entry = this.entries[this.cursor++];
    if (!entry || entry.isView !== isView || entry.tensor.dtype !== dtype)
      throw new KvasirError('ERR_KVASIR_PLAN', `forward() made another tensor than planned at position ${this.cursor - 1}: its ops must not depend on the batch`);
    return entry;
  }

  private place(shape: readonly number[], dtype: DType): Tensor {
    const entry = this.next(false, dtype);
    const bytes = numElements(shape) * DTYPE_BYTES[dtype];
    if (bytes > entry.bytes)
      throw new KvasirError('ERR_KVASIR_PLAN', `an activation [${shape.join(', ')}] needs ${bytes} bytes, ${entry.bytes} were planned`);
    if (entry.tensor.storage !== this.storage || !sameSizes(entry.tensor.shape, shape))
      entry.tensor.rebind(this.storage, entry.offset, shape, contiguousStrides(shape));
    return entry.tensor;
  }

  private placeView(base: Tensor, byteOffset: number, shape: readonly number[], strides: readonly number[]): Tensor {
    const { tensor } = this.next(true, base.dtype);
    if (tensor.storage !== base.storage || tensor.byteOffset !== byteOffset || !sameSizes(tensor.shape, shape) || !sameSizes(tensor.strides, strides))
      tensor.rebind(base.storage, byteOffset, shape, strides);
    return tensor;
  }
}

function sameSizes(a: readonly number[], b: readonly number[]): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}
