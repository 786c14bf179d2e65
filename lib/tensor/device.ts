import { loadBinding, wrapNativeError } from '../binding/load';
import type { GraphInfo, NativeCuda } from '../binding/native';
import type { DeviceType, DType } from '../config/vllm';
import { DTYPE_BYTES } from './dtype';
import { checkShape } from './table';
import { Tensor, contiguousStrides, numElements } from './tensor';

/** Memory that tensors are views of. Its owner calls dispose() exactly once; nothing waits for the garbage collector. */
export class Storage {
  private disposed = false;

  constructor(
    readonly device: Device,
    readonly id: number,
    readonly bytes: number,
  ) {}

  /** Freed on the device after the work queued so far. */
  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    loadBinding().release(this.id);
  }
}

/** Options of the linear layers of a CUDA device. */
export interface GemmOptions {
  /** Without it, or where the library is not found, the kernels of this package are used. */
  readonly useCublasLt?: boolean;
  /** A file or folder instead of the usual places. */
  readonly cublasLtPath?: string;
  /** Each row of a result is the same bit for bit whatever else is in the batch; small batches are slower. */
  readonly batchInvariant?: boolean;
  /** Time the library's kernels when a shape is first seen. */
  readonly tune?: boolean;
  /** Folder where these timings are kept for other processes; null: nowhere. */
  readonly planFolder?: string | null;
}

/** A device of this thread: one in-order stream of work, and the memory allocated on it. */
export class Device {
  private closed = false;

  private constructor(
    readonly type: DeviceType,
    readonly stream: number,
    readonly numThreads: number,
  ) {}

  /** @param ordinal which CUDA device, counted among those that this process sees */
  static create(type: DeviceType, numThreads: number, ordinal = 0): Device {
    return new Device(type, native((b) => b.createStream(type === 'cpu' ? 0 : 1, numThreads, ordinal)), numThreads);
  }

  allocate(bytes: number): Storage {
    return new Storage(this, native((b) => b.allocate(this.stream, bytes)), bytes);
  }

  /** A new tensor that owns a new storage (zeroed); dispose it with {@link Tensor.disposeStorage}. */
  empty(shape: readonly number[], dtype: DType): Tensor {
    checkShape(shape);
    const storage = this.allocate(numElements(shape) * DTYPE_BYTES[dtype]);
    return Tensor.view(storage, dtype, 0, shape, contiguousStrides(shape));
  }

  /** Settles when the work queued so far is done; rejects with what went wrong in it. */
  async synchronize(): Promise<void> {
    try {
      await native((b) => b.synchronize(this.stream));
    } catch (error) {
      throw wrapNativeError(error);
    }
  }

  setProfiling(on: boolean): void {
    native((b) => b.setProfiling(this.stream, on));
  }

  /** Seconds and calls per op since profiling was switched on. */
  profile(): Record<string, { calls: number; seconds: number }> {
    return native((b) => b.profile(this.stream));
  }

  /** Bytes free and in all on a CUDA device. */
  memory(): { free: number; total: number } {
    return native((b) => b.deviceMemory(this.stream));
  }

  /** Queued work becomes a graph instead of running, until {@link endCapture}. */
  beginCapture(): void {
    native((b) => b.beginCapture(this.stream));
  }

  /** The id of the captured graph. */
  endCapture(): number {
    return native((b) => b.endCapture(this.stream));
  }

  /** Ends a capture that failed: nothing is left of it, and work runs again when it is queued. */
  discardCapture(): void {
    native((b) => b.discardCapture(this.stream));
  }

  /** What a graph is made of. */
  graphInfo(graph: number): GraphInfo {
    return native((b) => b.graphInfo(this.stream, graph));
  }

  launchGraph(graph: number): void {
    native((b) => b.launchGraph(this.stream, graph));
  }

  destroyGraph(graph: number): void {
    native((b) => b.destroyGraph(this.stream, graph));
  }

  /** How linear layers of a CUDA device are computed from now on; graphs captured before keep their kernels. */
  configureGemm(options: GemmOptions): void {
    const { useCublasLt = true, cublasLtPath = '', batchInvariant = false, tune = true, planFolder } = options;
    native((b) => b.configureGemm(this.stream, useCublasLt, cublasLtPath, batchInvariant, tune, planFolder ?? ''));
  }

  /** Whether a CUDA device uses cuBLASLt and from where, or where it was looked for. */
  gemmReport(): string {
    return native((b) => b.gemmReport(this.stream));
  }

  /** The ceilings of the machine with this device's threads: plain reading of memory, and multiply-adds in registers. */
  async probe(bytes = 1 << 30): Promise<{ readBytesPerSecond: number; flops: number }> {
    const [readBytesPerSecond, flops] = new Float64Array(await native((b) => b.probeMachine(this.stream, bytes)));
    return { readBytesPerSecond: readBytesPerSecond!, flops: flops! };
  }

  /** Ends the stream's threads. Storages must have been disposed before. */
  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    await this.synchronize().finally(() => native((b) => b.destroyStream(this.stream)));
  }
}

/** CUDA devices that this build and machine have, or why there are none. */
export function cudaInfo(): ReturnType<NativeCuda['cudaInfo']> {
  return native((b) => b.cudaInfo());
}

/** Live native allocations of this thread: 0 after everything was closed. */
export function liveStorages(): { count: number; bytes: number } {
  return loadBinding().liveStorages();
}

function native<T>(call: (binding: ReturnType<typeof loadBinding>) => T): T {
  try {
    return call(loadBinding());
  } catch (error) {
    throw wrapNativeError(error);
  }
}
