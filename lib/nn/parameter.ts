import type { DType } from '../config/vllm';
import type { Device } from '../tensor/device';
import { DTYPE_BYTES } from '../tensor/dtype';
import { contiguousStrides, numElements, Tensor } from '../tensor/tensor';
import { KvasirError } from '../utils/errors';

/** Types that are converted into one another on loading. */
const FLOATS: ReadonlySet<DType> = new Set(['float32', 'float16', 'bfloat16']);

/** Which part of a fused parameter a checkpoint tensor is: "q" | "k" | "v", the index of a merged part, or null for all of it. */
export type ShardId = 'q' | 'k' | 'v' | number | null;

/** A checkpoint tensor that has not been read yet; narrowing it narrows what will be read. */
export interface LoadedWeight {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** Elements [start, start + length) along a dimension. */
  narrow(dim: number, start: number, length: number): LoadedWeight;
  /** Queues reading it into a tensor of the same shape, converted to its dtype. */
  copyInto(dest: Tensor): void;
}

/** A name under which a checkpoint may hold (a part of) a parameter. */
export interface WeightSource {
  readonly name: string;
  readonly shardId: ShardId;
}

export type WeightLoader = (param: Parameter, loaded: LoadedWeight, shardId: ShardId) => void;

export interface ParameterOptions {
  /** Names in the checkpoint; the default is the parameter's own name, whole. */
  readonly sources?: readonly WeightSource[];
  readonly weightLoader?: WeightLoader;
  /** Memory for this many more rows than the shape says, zero-filled (kernels that work on blocks of rows). */
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
  private readonly paddedShape: readonly number[];
  private onLoaded: ((param: Parameter) => void) | null;
  private loadedElements = 0;
  private readonly loadedShards = new Set<ShardId>();
  private isFinished = false;

  /** @param name full name in the model, e.g. `model.layers.0.self_attn.qkv_proj.weight` */
  constructor(
    readonly name: string,
    readonly shape: readonly number[],
    readonly dtype: DType,
    options: ParameterOptions = {},
  ) {
    this.tensor = Tensor.view(null, dtype, 0, shape, contiguousStrides(shape));
    this.sources = options.sources ?? [{ name, shardId: null }];
    this.weightLoader = options.weightLoader ?? defaultWeightLoader;
    this.outputDim = options.outputDim ?? null;
    this.inputDim = options.inputDim ?? null;
    this.onLoaded = options.onLoaded ?? null;
    this.paddedShape = shape.length ? [shape[0]! + (options.paddedRows ?? 0), ...shape.slice(1)] : shape;
  }

  get bytes(): number {
    return numElements(this.paddedShape) * DTYPE_BYTES[this.dtype];
  }

  get isLoaded(): boolean {
    return this.loadedElements >= numElements(this.shape);
  }

  /** Takes zeroed memory from the device. */
  allocate(device: Device): void {
    if (this.tensor.storage) return;
    this.tensor.rebind(device.allocate(this.bytes), 0, this.paddedShape, contiguousStrides(this.paddedShape));
  }

  /**
   * Loads (a shard of) the parameter; runs onLoaded after the last one.
   * @throws KvasirError ERR_KVASIR_WEIGHTS for another shape or kind of number, or when these elements were loaded before
   */
  load(loaded: LoadedWeight, shardId: ShardId): void {
    if (this.isLoaded || this.loadedShards.has(shardId) || (shardId === null && this.loadedShards.size > 0))
      throw new KvasirError('ERR_KVASIR_WEIGHTS', `${loaded.name} is (a part of) ${this.name}, which the checkpoint holds under another name too`);
    this.loadedShards.add(shardId);
    this.weightLoader(this, loaded, shardId);
    if (this.isLoaded) this.finishLoading();
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
    if (loaded.shape.length !== shape.length || loaded.shape.some((size, i) => size !== shape[i]))
      throw new KvasirError('ERR_KVASIR_WEIGHTS', `${loaded.name} has shape [${loaded.shape.join(', ')}], expected [${shape.join(', ')}] for ${this.name}`);
    if (loaded.dtype !== this.dtype && !(FLOATS.has(loaded.dtype) && FLOATS.has(this.dtype)))
      throw new KvasirError('ERR_KVASIR_WEIGHTS', `${loaded.name} holds ${loaded.dtype}, expected ${FLOATS.has(this.dtype) ? [...FLOATS].join(', ') : this.dtype} for ${this.name}`);
    const offset = shape.length ? start * this.tensor.strides[dim]! * DTYPE_BYTES[this.dtype] : 0;
    const region = Tensor.view(this.tensor.storage, this.dtype, offset, shape, this.tensor.strides);
    try {
      loaded.copyInto(region);
    } finally {
      region.dispose();
    }
    this.loadedElements += numElements(shape);
  }

  dispose(): void {
    this.tensor.disposeStorage();
  }
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
