import type { DType } from '../config/vllm';
import type { Device } from '../tensor/device';
import { DTYPE_BYTES } from '../tensor/dtype';
import { copyInto } from '../ops/copy';
import { inScope, TemporaryScope } from '../tensor/scope';
import { contiguousStrides, numElements, Tensor } from '../tensor/tensor';
import { KvasirError } from '../utils/errors';
import { checkFullName } from './full-name';

/** Types that are converted into one another on loading. */
const FLOATS: ReadonlySet<DType> = new Set(['float32', 'float16', 'bfloat16']);

/** Which part of a fused parameter a checkpoint tensor is: "q" | "k" | "v", the index of a merged part, or null for all of it. */
export type ShardId = 'q' | 'k' | 'v' | number | null;

/** A checkpoint tensor that has not been read yet; narrowing it narrows what will be read. */
export interface LoadedWeight {
  readonly name: string;
  /** Its name in the checkpoint, when a mapper gave it another. */
  readonly originalName?: string;
  /** Which part of a fused parameter a mapper says it is. */
  readonly shardId?: ShardId;
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** Elements [start, start + length) along a dimension. */
  narrow(dim: number, start: number, length: number): LoadedWeight;
  /** A matrix with its rows as columns: for weights that are stored [in, out]. */
  transpose(): LoadedWeight;
  /** Queues reading it into a tensor of the same shape, converted to its dtype. */
  copyInto(dest: Tensor): void;
}

/** A name under which a checkpoint may hold (a part of) a parameter. */
export interface WeightSource {
  readonly name: string;
  readonly shardId: ShardId;
}

export type WeightLoader = (param: Parameter, loaded: LoadedWeight, shardId: ShardId) => void;

/**
 * What becomes of a parameter: a `weight` is read from the checkpoint and stays; a `source` is read too, but takes memory with
 * its first shard only and is released when another form was made of it; a `derived` one is such a form: no checkpoint has it.
 */
export type ParameterRole = 'weight' | 'source' | 'derived';

export interface ParameterOptions {
  /** Names in the checkpoint; the default is the parameter's own name, whole. */
  readonly sources?: readonly WeightSource[];
  readonly weightLoader?: WeightLoader;
  /** Default 'weight'. */
  readonly role?: ParameterRole;
  /** The checkpoint may lack it. */
  readonly optional?: boolean;
  /** Fills it when the weights are dummies (loadFormat 'dummy'); default by its type and shape. */
  readonly dummy?: (tensor: Tensor) => void;
  /** Memory for this many more rows (of each matrix) than the shape says, zero-filled (kernels that work on blocks of rows). */
  readonly paddedRows?: number;
  /** Runs once when every element has been queued for reading, e.g. packing the weight for the backend. */
  readonly onLoaded?: (param: Parameter) => void;
  /** Which dimensions tensor parallelism cuts (vLLM's output_dim and input_dim). */
  readonly outputDim?: number;
  readonly inputDim?: number;
}

/** A weight of this rank: its shape, where it comes from, and (after loading) its memory, which it alone owns. */
export class Parameter {
  readonly tensor: Tensor;
  readonly outputDim: number | null;
  readonly inputDim: number | null;
  readonly sources: readonly WeightSource[];
  readonly weightLoader: WeightLoader;
  readonly role: ParameterRole;
  readonly optional: boolean;
  readonly dummy: ((tensor: Tensor) => void) | null;
  private device: Device | null = null;
  private readonly paddedShape: readonly number[];
  private onLoaded: ((param: Parameter) => void) | null;
  private loadedElements = 0;
  private readonly loadedShards = new Set<ShardId>();
  private isFinished = false;

  /**
   * @param name full name in the model, e.g. `model.layers.0.self_attn.qkv_proj.weight`
   * @throws KvasirError ERR_KVASIR_LAYER for a name with an empty part
   */
  constructor(
    readonly name: string,
    readonly shape: readonly number[],
    readonly dtype: DType,
    options: ParameterOptions = {},
  ) {
    checkFullName(name, 'a parameter');
    this.tensor = Tensor.view(null, dtype, 0, shape, contiguousStrides(shape));
    this.role = options.role ?? 'weight';
    this.optional = options.optional ?? false;
    this.dummy = options.dummy ?? null;
    this.sources = this.role === 'derived' ? [] : (options.sources ?? [{ name, shardId: null }]);
    this.weightLoader = options.weightLoader ?? defaultWeightLoader;
    this.outputDim = options.outputDim ?? null;
    this.inputDim = options.inputDim ?? null;
    this.onLoaded = options.onLoaded ?? null;
    const rowsDim = Math.max(0, shape.length - 2);
    this.paddedShape = shape.map((size, dim) => (dim === rowsDim ? size + (options.paddedRows ?? 0) : size));
  }

  /** What it takes once the model is loaded: nothing for a source. */
  get bytes(): number {
    return this.role === 'source' ? 0 : numElements(this.paddedShape) * DTYPE_BYTES[this.dtype];
  }

  /** Every element came from the checkpoint (or wherever else). */
  get isComplete(): boolean {
    return this.loadedElements >= numElements(this.shape);
  }

  /** That part of it came from the checkpoint. */
  hasLoaded(shardId: ShardId): boolean {
    return this.loadedShards.has(shardId);
  }

  /** Nothing has to come from the checkpoint any more. */
  get isLoaded(): boolean {
    return this.isComplete || this.role === 'derived' || (this.optional && this.loadedShards.size === 0);
  }

  /** Takes zeroed memory from the device: a weight now, the others when they need it ({@link materialize}). */
  allocate(device: Device): void {
    this.device = device;
    if (this.role === 'weight') this.materialize();
  }

  /** Takes the memory that {@link allocate} left for later. */
  materialize(): void {
    if (this.tensor.storage) return;
    if (!this.device) throw new KvasirError('ERR_KVASIR_DISPOSED', `${this.name} has no device: allocate() comes before loading`);
    const bytes = numElements(this.paddedShape) * DTYPE_BYTES[this.dtype];
    this.tensor.rebind(this.device.allocate(bytes), 0, this.paddedShape, contiguousStrides(this.paddedShape));
  }

  /**
   * Loads (a shard of) the parameter; runs onLoaded after the last one.
   * @throws KvasirError ERR_KVASIR_WEIGHTS for another shape or kind of number, or when these elements were loaded before
   */
  load(loaded: LoadedWeight, shardId: ShardId): void {
    if (this.isComplete || this.loadedShards.has(shardId) || (shardId === null && this.loadedShards.size > 0))
      throw new KvasirError('ERR_KVASIR_WEIGHTS', `${loaded.name} is (a part of) ${this.name}, which the checkpoint holds under another name too`);
    this.loadedShards.add(shardId);
    this.materialize();
    this.weightLoader(this, loaded, shardId);
    if (this.isComplete) this.finishLoading();
  }

  /** Sets what runs when the parameter is complete: a second layer that uses the same weight (tied embeddings) may need it packed. */
  whenLoaded(onLoaded: (param: Parameter) => void): void {
    this.onLoaded = onLoaded;
  }

  /** Everything is there, by whatever way. Runs onLoaded the first time. */
  finishLoading(): void {
    this.loadedElements = numElements(this.shape);
    if (this.isFinished) return;
    this.isFinished = true;
    this.onLoaded?.(this);
  }

  /** Queues reading `loaded` into rows/columns [start, start + its size) along `dim`; shapes must agree. */
  copyShard(loaded: LoadedWeight, dim = 0, start = 0, length = this.shape[dim] ?? 1): void {
    const shape = this.shape.slice();
    if (shape.length) shape[dim] = length;
    if (!sameShape(loaded.shape, shape)) this.refuseShape(loaded, shape);
    const strides = loaded.shape.map((_, i) => this.tensor.strides[i] ?? 1);
    this.readInto(loaded, shape.length ? start * this.tensor.strides[dim]! : 0, strides);
  }

  /** Queues reading `loaded`, which has the elements of one row, in whatever shape, into row `row`. */
  copyRow(loaded: LoadedWeight, row: number): void {
    const rowShape = this.shape.slice(1);
    if (numElements(loaded.shape) !== numElements(rowShape)) this.refuseShape(loaded, rowShape);
    this.readInto(loaded, row * this.tensor.strides[0]!, contiguousStrides(loaded.shape));
  }

  /** Queues reading `loaded` into rows [start, start + length) of matrix `index` of a parameter [matrices, rows, columns]; shapes must agree. */
  copyMatrix(loaded: LoadedWeight, index: number, start = 0, length = this.shape[1]!): void {
    const shape = [length, this.shape[2]!];
    if (loaded.shape.length !== 2 || loaded.shape.some((size, i) => size !== shape[i])) this.refuseShape(loaded, shape);
    const [matrix, row] = this.tensor.strides as [number, number];
    this.readInto(loaded, index * matrix + start * row, this.tensor.strides.slice(1));
  }

  /** Queues setting rows [start, start + length) to the one element of `loaded`. */
  fillRows(loaded: LoadedWeight, start: number, length: number): void {
    this.checkDtype(loaded);
    const scope = new TemporaryScope(this.tensor.device);
    try {
      inScope(scope, () => {
        const shape = [length, ...this.shape.slice(1)];
        const scalar = scope.allocate(loaded.shape, this.dtype);
        loaded.copyInto(scalar);
        const offset = start * this.tensor.strides[0]! * DTYPE_BYTES[this.dtype];
        copyInto(scope.view(this.tensor, offset, shape, this.tensor.strides), scope.view(scalar, 0, shape, shape.map(() => 0)));
      });
    } finally {
      scope.dispose();
    }
    this.loadedElements += length * numElements(this.shape.slice(1));
  }

  /** Queues reading into the region of the shape of `loaded` that begins at an element; counts it as loaded. */
  private readInto(loaded: LoadedWeight, element: number, strides: readonly number[]): void {
    this.checkDtype(loaded);
    const region = Tensor.view(this.tensor.storage, this.dtype, element * DTYPE_BYTES[this.dtype], loaded.shape, strides);
    try {
      loaded.copyInto(region);
    } finally {
      region.dispose();
    }
    this.loadedElements += numElements(loaded.shape);
  }

  private checkDtype(loaded: LoadedWeight): void {
    if (loaded.dtype === this.dtype || (FLOATS.has(loaded.dtype) && FLOATS.has(this.dtype))) return;
    const expected = FLOATS.has(this.dtype) ? [...FLOATS].join(', ') : this.dtype;
    throw new KvasirError('ERR_KVASIR_WEIGHTS', `${loaded.name} holds ${loaded.dtype}, expected ${expected} for ${this.name}`);
  }

  private refuseShape(loaded: LoadedWeight, expected: readonly number[]): never {
    throw new KvasirError('ERR_KVASIR_WEIGHTS', `${loaded.name} has shape [${loaded.shape.join(', ')}], expected [${expected.join(', ')}] for ${this.name}`);
  }

  dispose(): void {
    this.tensor.disposeStorage();
  }
}

/** Equal up to dimensions of size 1 at the end: scales of rows are [rows] or [rows, 1]. */
function sameShape(a: readonly number[], b: readonly number[]): boolean {
  const rank = Math.max(a.length, b.length, 1);
  if (Math.min(a.length, b.length) === 0 && rank > 1) return false;
  for (let i = 0; i < rank; i++) if ((a[i] ?? 1) !== (b[i] ?? 1)) return false;
  return true;
}

/** The checkpoint tensor is the parameter (vllm default_weight_loader). */
export function defaultWeightLoader(param: Parameter, loaded: LoadedWeight): void {
  param.copyShard(loaded);
}

/** A constant that a module computes itself and that no checkpoint holds, e.g. a rotary table. */
export class ConstantBuffer {
  readonly tensor: Tensor;

  constructor(
    readonly shape: readonly number[],
    readonly dtype: 'float32' | 'int32',
    private readonly values: () => Float32Array | Int32Array,
  ) {
    this.tensor = Tensor.view(null, dtype, 0, shape, contiguousStrides(shape));
  }

  get bytes(): number {
    return numElements(this.shape) * DTYPE_BYTES[this.dtype];
  }

  /** Takes memory and writes the values. */
  allocate(device: Device): void {
    if (this.tensor.storage) return;
    this.tensor.rebind(device.allocate(this.bytes), 0, this.shape, contiguousStrides(this.shape));
    this.tensor.write(this.values());
  }

  dispose(): void {
    this.tensor.disposeStorage();
  }
}
