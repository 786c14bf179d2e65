import type { AttentionMetadata } from '../attention/metadata';
import type { DType } from '../config/vllm';
import type { Device } from '../tensor/device';
import { contiguousStrides, Tensor } from '../tensor/tensor';
import { KvasirError } from '../utils/errors';

/** The inputs of one step on the host; lengths are those of the step. */
export interface StepInputs {
  readonly inputIds: Int32Array;
  readonly positions: Int32Array;
  readonly slotMapping: BigInt64Array;
  readonly queryStartLoc: Int32Array;
  readonly seqLens: Int32Array;
  readonly seqRows: Int32Array;
}

/** Device tensors that a step's inputs are written to: allocated once at the largest step, always at the same address. */
export class InputBuffers {
  readonly inputIds: Tensor;
  readonly positions: Tensor;
  readonly blockTable: Tensor;
  private readonly slotMapping: Tensor;
  private readonly queryStartLoc: Tensor;
  private readonly seqLens: Tensor;
  private readonly seqRows: Tensor;

  constructor(
    device: Device,
    private readonly maxNumTokens: number,
    private readonly maxNumSeqs: number,
    readonly maxBlocksPerSeq: number,
  ) {
    const make = (shape: number[], dtype: DType): Tensor => device.empty(shape, dtype);
    this.inputIds = make([maxNumTokens], 'int32');
    this.positions = make([maxNumTokens], 'int32');
    this.slotMapping = make([maxNumTokens], 'int64');
    this.queryStartLoc = make([maxNumSeqs + 1], 'int32');
    this.seqLens = make([maxNumSeqs], 'int32');
    this.seqRows = make([maxNumSeqs], 'int32');
    this.blockTable = make([maxNumSeqs, maxBlocksPerSeq], 'int32');
  }

  /** The shapes of the largest step, for planning. */
  largest(): AttentionMetadata {
    this.resize(this.maxNumTokens, this.maxNumSeqs);
    return this.metadata(this.maxNumTokens, this.maxNumSeqs);
  }

  /** Writes a step's inputs; the tensors have its sizes until the next call. */
  upload(step: StepInputs): AttentionMetadata {
    const numTokens = step.inputIds.length;
    const numSeqs = step.seqLens.length;
    this.resize(numTokens, numSeqs);
    this.inputIds.write(step.inputIds);
    this.positions.write(step.positions);
    this.slotMapping.write(step.slotMapping);
    this.queryStartLoc.write(step.queryStartLoc);
    this.seqLens.write(step.seqLens);
    this.seqRows.write(step.seqRows);
    return this.metadata(numTokens, numSeqs);
  }

  /** Writes entries [start, start + ids.length) of a request's row of the block table. */
  writeBlocks(row: number, start: number, ids: readonly number[]): void {
    if (start + ids.length > this.maxBlocksPerSeq)
      throw new KvasirError('ERR_KVASIR_NATIVE', `a request got ${start + ids.length} blocks, its row of the block table holds ${this.maxBlocksPerSeq}`);
    const view = Tensor.view(this.blockTable.storage, 'int32', (row * this.maxBlocksPerSeq + start) * 4, [ids.length], [1]);
    try {
      view.write(Int32Array.from(ids));
    } finally {
      view.dispose();
    }
  }

  dispose(): void {
    for (const tensor of [this.inputIds, this.positions, this.slotMapping, this.queryStartLoc, this.seqLens, this.seqRows, this.blockTable])
      tensor.disposeStorage();
  }

  private resize(numTokens: number, numSeqs: number): void {
    const sizes: [Tensor, number][] = [
      [this.inputIds, numTokens],
      [this.positions, numTokens],
      [this.slotMapping, numTokens],
      [this.queryStartLoc, numSeqs + 1],
      [this.seqLens, numSeqs],
      [this.seqRows, numSeqs],
    ];
    for (const [tensor, size] of sizes)
      if (tensor.shape[0] !== size) tensor.rebind(tensor.storage, 0, [size], contiguousStrides([size]));
  }

  private metadata(numTokens: number, numSeqs: number): AttentionMetadata {
    const { slotMapping, queryStartLoc, seqLens, seqRows, blockTable } = this;
    return { numTokens, numSeqs, slotMapping, queryStartLoc, seqLens, seqRows, blockTable };
  }
}
