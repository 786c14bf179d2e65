import type { AttentionMetadata } from '../attention/metadata';
import type { DType } from '../config/vllm';
import { scatterElements } from '../ops/copy';
import type { Device, Storage } from '../tensor/device';
import { inScope, TemporaryScope } from '../tensor/scope';
import { Tensor } from '../tensor/tensor';
import { KvasirError } from '../utils/errors';

/** The inputs of one step on the host; lengths are those of the step. */
export interface StepInputs {
  readonly inputIds: Int32Array;
  readonly positions: Int32Array;
  readonly slotMapping: BigInt64Array;
  readonly queryStartLoc: Int32Array;
  readonly seqLens: Int32Array;
  readonly seqRows: Int32Array;
  /** Per token: the request row whose last sampled token it is, when only the device knows it; else -1. */
  readonly feedbackRows: Int32Array;
}

/** Byte offsets of a step's inputs in one stretch of memory, for steps of at most this many tokens and requests. */
interface Layout {
  readonly offsets: Readonly<Record<keyof StepInputs, number>>;
  readonly bytes: number;
}

const ALIGNMENT = 16;

function layoutFor(start: number, numTokens: number, numSeqs: number): Layout {
  let end = start;
  const place = (bytes: number): number => {
    const offset = end;
    end = Math.ceil((end + bytes) / ALIGNMENT) * ALIGNMENT;
    return offset;
  };
  const offsets = {
    slotMapping: place(8 * numTokens),
    inputIds: place(4 * numTokens),
    positions: place(4 * numTokens),
    queryStartLoc: place(4 * (numSeqs + 1)),
    seqLens: place(4 * numSeqs),
    seqRows: place(4 * numSeqs),
    feedbackRows: place(4 * numTokens),
  };
  return { offsets, bytes: end - start };
}

const DTYPES: Readonly<Record<keyof StepInputs, DType>> = {
  inputIds: 'int32',
  positions: 'int32',
  slotMapping: 'int64',
  queryStartLoc: 'int32',
  seqLens: 'int32',
  seqRows: 'int32',
  feedbackRows: 'int32',
};

const NAMES = Object.keys(DTYPES) as (keyof StepInputs)[];

/** Entries of the block table that one upload can change. */
const BLOCK_UPDATES = 1024;

/** Changes of the block table that wait for the next step, and the memory through which they go. */
interface BlockUpdates {
  /** Places in the flattened table, and what belongs there. */
  readonly indices: number[];
  readonly ids: number[];
  readonly memory: Tensor;
  readonly indicesTensor: Tensor;
  readonly idsTensor: Tensor;
}

/**
 * Device memory that a step's inputs are written to, allocated once. Steps of at most maxNumSeqs tokens (decoding) and
 * larger ones have a stretch each, so that either is one small upload and always lies at the same addresses.
 */
export class InputBuffers {
  readonly blockTable: Tensor;
  private readonly blockTableFlat: Tensor;
  private readonly blockUpdates: BlockUpdates;
  private readonly storage: Storage;
  private readonly small: Layout;
  private readonly large: Layout;
  private readonly tensors: Readonly<Record<keyof StepInputs, Tensor>>;

  constructor(
    private readonly device: Device,
    private readonly maxNumTokens: number,
    private readonly maxNumSeqs: number,
    readonly maxBlocksPerSeq: number,
  ) {
    this.small = layoutFor(0, maxNumSeqs, maxNumSeqs);
    this.large = layoutFor(this.small.bytes, maxNumTokens, maxNumSeqs);
    this.storage = device.allocate(this.small.bytes + this.large.bytes);
    const make = (name: keyof StepInputs): Tensor => Tensor.view(this.storage, DTYPES[name], this.large.offsets[name], [1], [1]);
    this.tensors = Object.fromEntries(NAMES.map((name) => [name, make(name)])) as Record<keyof StepInputs, Tensor>;
    this.blockTable = device.empty([maxNumSeqs, maxBlocksPerSeq], 'int32');
    this.blockTableFlat = Tensor.view(this.blockTable.storage, 'int32', 0, [maxNumSeqs * maxBlocksPerSeq], [1]);
    const memory = device.empty([2 * BLOCK_UPDATES], 'int32');
    const part = (): Tensor => Tensor.view(memory.storage, 'int32', 0, [1], [1]);
    this.blockUpdates = { indices: [], ids: [], memory, indicesTensor: part(), idsTensor: part() };
  }

  get inputIds(): Tensor {
    return this.tensors.inputIds;
  }

  get positions(): Tensor {
    return this.tensors.positions;
  }

  get feedbackRows(): Tensor {
    return this.tensors.feedbackRows;
  }

  /** The shapes of the largest step, for planning. */
  largest(): AttentionMetadata {
    this.place(this.large, this.maxNumTokens, this.maxNumSeqs);
    return this.metadata(this.maxNumTokens, this.maxNumSeqs);
  }

  /** Writes a step's inputs and the block ids noted before; the tensors have its sizes until the next call. */
  upload(step: StepInputs): AttentionMetadata {
    const numTokens = step.inputIds.length;
    const numSeqs = step.seqLens.length;
    const layout = numTokens <= this.maxNumSeqs ? this.small : this.large;
    this.flushBlocks();
    this.place(layout, numTokens, numSeqs);
    const start = layout.offsets.slotMapping;
    const bytes = new Uint8Array(layout.bytes);
    for (const name of NAMES) bytes.set(bytesOf(step[name]), layout.offsets[name] - start);
    const area = Tensor.view(this.storage, 'uint8', start, [bytes.length], [1]);
    try {
      area.write(bytes);
    } finally {
      area.dispose();
    }
    return this.metadata(numTokens, numSeqs);
  }

  /**
   * Notes that entries [start, start + ids.length) of a request's row of the block table are `ids`; they are written with the
   * next {@link upload}, those of all requests in one go.
   */
  writeBlocks(row: number, start: number, ids: readonly number[]): void {
    if (row < 0 || row >= this.maxNumSeqs || start + ids.length > this.maxBlocksPerSeq)
      throw new KvasirError('ERR_KVASIR_NATIVE', `row ${row} got ${start + ids.length} blocks; the block table has ${this.maxNumSeqs} rows of ${this.maxBlocksPerSeq}`);
    ids.forEach((id, i) => {
      this.blockUpdates.indices.push(row * this.maxBlocksPerSeq + start + i);
      this.blockUpdates.ids.push(id);
    });
  }

  /** Stores what {@link writeBlocks} noted: one upload and one kernel for every {@link BLOCK_UPDATES} entries. */
  private flushBlocks(): void {
    const { indices, ids } = this.blockUpdates;
    for (let start = 0; start < ids.length; start += BLOCK_UPDATES) {
      const count = Math.min(BLOCK_UPDATES, ids.length - start);
      const { memory, indicesTensor, idsTensor } = this.blockUpdates;
      memory.write(Int32Array.from([...indices.slice(start, start + count), ...ids.slice(start, start + count)]));
      indicesTensor.rebind(memory.storage, 0, [count], [1]);
      idsTensor.rebind(memory.storage, 4 * count, [count], [1]);
      inScope(new TemporaryScope(this.device), () => scatterElements(this.blockTableFlat, indicesTensor, idsTensor));
    }
    indices.length = ids.length = 0;
  }

  dispose(): void {
    for (const name of NAMES) this.tensors[name].dispose();
    this.storage.dispose();
    this.blockTableFlat.dispose();
    this.blockUpdates.indicesTensor.dispose();
    this.blockUpdates.idsTensor.dispose();
    this.blockUpdates.memory.disposeStorage();
    this.blockTable.disposeStorage();
  }

  private place(layout: Layout, numTokens: number, numSeqs: number): void {
    if (numTokens > this.maxNumTokens || numSeqs > this.maxNumSeqs)
      throw new KvasirError('ERR_KVASIR_NATIVE', `a step of ${numTokens} tokens and ${numSeqs} requests exceeds ${this.maxNumTokens} and ${this.maxNumSeqs}`);
    const sizes: Readonly<Record<keyof StepInputs, number>> = {
      inputIds: numTokens,
      positions: numTokens,
      slotMapping: numTokens,
      queryStartLoc: numSeqs + 1,
      seqLens: numSeqs,
      seqRows: numSeqs,
      feedbackRows: numTokens,
    };
    for (const name of NAMES) {
      const tensor = this.tensors[name];
      const offset = layout.offsets[name];
      if (tensor.shape[0] !== sizes[name] || tensor.byteOffset !== offset) tensor.rebind(this.storage, offset, [sizes[name]], [1]);
    }
  }

  private metadata(numTokens: number, numSeqs: number): AttentionMetadata {
    const { slotMapping, queryStartLoc, seqLens, seqRows } = this.tensors;
    return { numTokens, numSeqs, slotMapping, queryStartLoc, seqLens, seqRows, blockTable: this.blockTable };
  }
}

function bytesOf(array: Int32Array | BigInt64Array): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}
