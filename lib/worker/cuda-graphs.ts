import type { Device } from '../tensor/device';
import type { Tensor } from '../tensor/tensor';

/** Batch sizes for which a decode step is captured: 1, 2, 4, then every 8 up to 256, and the largest batch where that is less. */
export function cudaGraphSizes(maxNumSeqs: number): number[] {
  const sizes = [1, 2, 4];
  for (let size = 8; size <= 256; size += 8) sizes.push(size);
  const most = Math.min(maxNumSeqs, 256);
  return [...sizes.filter((size) => size < most), most];
}

interface Captured {
  graph: number | null;
  /** What ran eagerly, until it is captured. */
  body: (() => Tensor) | null;
  /** The step's result and its shape in this graph; the tensor object is shared with other sizes. */
  result: Tensor;
  readonly shape: readonly number[];
}

/**
 * Decode steps as CUDA graphs, one per padded batch size (vllm CudaGraphRunner): the first step of a size runs eagerly, which
 * warms up its kernels, the second is captured, later ones are one launch. Owns the graphs.
 */
export class CudaGraphRunner {
  private readonly captured = new Map<number, Captured>();

  constructor(
    private readonly device: Device,
    private readonly sizes: readonly number[],
  ) {}

  /** The padded size for a batch, or null when it is larger than any captured one. */
  paddedSize(batchSize: number): number | null {
    return this.sizes.find((size) => size >= batchSize) ?? null;
  }

  /** Runs `body`, which only queues ops on memory that is the same in every step, and returns its result for this size. */
  run(size: number, body: () => Tensor): Tensor {
    const entry = this.captured.get(size);
    if (!entry) {
      const result = body();
      this.captured.set(size, { graph: null, body, result, shape: result.shape.slice() });
      return result;
    }
    this.device.launchGraph(entry.graph ?? this.complete(entry, body));
    const { result, shape } = entry;
    if (result.shape[0] !== shape[0]) result.rebind(result.storage, result.byteOffset, shape, result.strides);
    return result;
  }

  /**
   * Captures what the last step ran eagerly, now and not when its size comes again: for ranks that share a device, which must be idle
   * then. Making a graph may wait for the device, where the step of one rank would wait for that of the next.
   */
  captureLast(): void {
    for (const entry of this.captured.values()) if (entry.body) this.complete(entry, entry.body);
  }

  private complete(entry: Captured, body: () => Tensor): number {
    entry.body = null;
    entry.result = this.capture(body);
    return (entry.graph = this.device.endCapture());
  }

  private capture(body: () => Tensor): Tensor {
    this.device.beginCapture();
    try {
      return body();
    } catch (error) {
      this.device.discardCapture(); // never throws: what went wrong in the body is what is to be heard
      throw error;
    }
  }

  dispose(): void {
    for (const { graph } of this.captured.values()) if (graph !== null) this.device.destroyGraph(graph);
    this.captured.clear();
  }
}
