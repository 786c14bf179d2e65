import { scatterElements } from '../ops/copy';
import { SAMPLING_PARAMS_WIDTH } from '../ops/sampling';
import type { SamplerTables } from '../sampling/sampler-state';
import type { Device } from '../tensor/device';
import { inScope, TemporaryScope } from '../tensor/scope';
import { Tensor } from '../tensor/tensor';
import { KvasirError } from '../utils/errors';
import type { StepInputs } from './step-inputs';

/** Changes that one step can carry; what is more goes ahead of it. */
export const MAX_UPDATES = 1024;

/** Words of a request's sampling state: the parameters, then the seed. */
const SAMPLING_WORDS = 16;

/**
 * What requests keep on the device in a stable row each: block table, sampling parameters, seed. One stretch of int32 words, so
 * that the changes of all of them are one list of (place, word), which travels with a step's inputs. Owns its tensors.
 */
export class RequestTables implements SamplerTables {
  /** int32 [maxNumSeqs, maxBlocksPerSeq] for each KV cache group */
  readonly blockTables: readonly Tensor[];
  /** float32 [maxNumSeqs, SAMPLING_PARAMS_WIDTH], rows apart */
  readonly params: Tensor;
  /** int32 [maxNumSeqs, 2], rows apart */
  readonly seeds: Tensor;
  /** All of it: int32 [numWords]. */
  readonly words: Tensor;
  private readonly samplingStart: number;
  private readonly overflow: Tensor;
  private readonly overflowIndices: Tensor;
  private readonly overflowValues: Tensor;
  private indices = new Int32Array(MAX_UPDATES);
  private values = new Int32Array(MAX_UPDATES);
  private pending = 0;

  constructor(
    private readonly device: Device,
    private readonly maxNumSeqs: number,
    private readonly maxBlocksPerSeq: number,
    private readonly numGroups = 1,
  ) {
    const tableSize = maxNumSeqs * maxBlocksPerSeq;
    this.samplingStart = Math.ceil((numGroups * tableSize) / SAMPLING_WORDS) * SAMPLING_WORDS;
    this.words = device.empty([this.samplingStart + maxNumSeqs * SAMPLING_WORDS], 'int32');
    const { storage } = this.words;
    const table = (group: number): Tensor => Tensor.view(storage, 'int32', 4 * group * tableSize, [maxNumSeqs, maxBlocksPerSeq], [maxBlocksPerSeq, 1]);
    this.blockTables = Array.from({ length: numGroups }, (_, group) => table(group));
    this.params = Tensor.view(storage, 'float32', 4 * this.samplingStart, [maxNumSeqs, SAMPLING_PARAMS_WIDTH], [SAMPLING_WORDS, 1]);
    this.seeds = Tensor.view(storage, 'int32', 4 * (this.samplingStart + SAMPLING_PARAMS_WIDTH), [maxNumSeqs, 2], [SAMPLING_WORDS, 1]);
    this.overflow = device.empty([2 * MAX_UPDATES], 'int32');
    this.overflowIndices = Tensor.view(this.overflow.storage, 'int32', 0, [MAX_UPDATES], [1]);
    this.overflowValues = Tensor.view(this.overflow.storage, 'int32', 4 * MAX_UPDATES, [MAX_UPDATES], [1]);
  }

  /** The first group's. */
  get blockTable(): Tensor {
    return this.blockTables[0]!;
  }

  /** Changes that wait for the next step. */
  get numPending(): number {
    return this.pending;
  }

  /**
   * Notes entries of a request's rows of the block tables from entry `start` on. Of G groups, id i * G + g is entry start + i of
   * group g. Entries that a sliding window has left behind are never changed: attention does not look at them, whoever has the block.
   */
  writeBlocks(row: number, start: number, ids: readonly number[]): void {
    const { numGroups, maxNumSeqs, maxBlocksPerSeq } = this;
    const end = start + ids.length / numGroups;
    if (row < 0 || row >= maxNumSeqs || end > maxBlocksPerSeq)
      throw new KvasirError('ERR_KVASIR_NATIVE', `row ${row} got ${end} blocks; the block table has ${maxNumSeqs} rows of ${maxBlocksPerSeq}`);
    for (let group = 0; group < numGroups; group++) {
      let index = (group * maxNumSeqs + row) * maxBlocksPerSeq + start;
      for (let i = group; i < ids.length; i += numGroups) this.note(index++, ids[i]!);
    }
  }

  writeSampling(row: number, words: Int32Array): void {
    const first = this.samplingStart + row * SAMPLING_WORDS;
    for (let i = 0; i < words.length; i++) this.note(first + i, words[i]!);
  }

  /** Hands the changes over to a step; those that it has no room for are stored ahead of it. */
  moveTo(inputs: StepInputs): void {
    const room = inputs.numUpdates;
    this.flush(room);
    const { words, at } = inputs;
    for (let i = 0; i < room; i++) {
      const used = i < this.pending;
      words[at.updateIndices + i] = used ? this.indices[i]! : -1;
      words[at.updateValues + i] = used ? this.values[i]! : 0;
    }
    this.pending = 0;
  }

  /** Stores changes now until at most `rest` are left, the earliest first: one upload and one kernel for {@link MAX_UPDATES}. */
  flush(rest = 0): void {
    let start = 0;
    for (; this.pending - start > rest; start += MAX_UPDATES) {
      const count = Math.min(MAX_UPDATES, this.pending - start);
      const words = new Int32Array(2 * MAX_UPDATES).fill(-1, 0, MAX_UPDATES);
      words.set(this.indices.subarray(start, start + count));
      words.set(this.values.subarray(start, start + count), MAX_UPDATES);
      this.overflow.write(words);
      inScope(new TemporaryScope(this.device), () => scatterElements(this.words, this.overflowIndices, this.overflowValues));
    }
    if (start === 0) return;
    this.indices.copyWithin(0, start, this.pending);
    this.values.copyWithin(0, start, this.pending);
    this.pending = Math.max(0, this.pending - start);
  }

  dispose(): void {
    for (const tensor of [...this.blockTables, this.params, this.seeds, this.overflowIndices, this.overflowValues]) tensor.dispose();
    for (const tensor of [this.overflow, this.words]) tensor.disposeStorage();
  }

  private note(index: number, value: number): void {
    if (this.pending === this.indices.length) {
      this.indices = grown(this.indices);
      this.values = grown(this.values);
    }
    this.indices[this.pending] = index;
    this.values[this.pending++] = value;
  }
}

function grown(array: Int32Array): Int32Array<ArrayBuffer> {
  const larger = new Int32Array(2 * array.length);
  larger.set(array);
  return larger;
}
