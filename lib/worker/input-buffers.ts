import type { AttentionMetadata } from '../attention/metadata';
import type { Device } from '../tensor/device';
import { Tensor } from '../tensor/tensor';
import { KvasirError } from '../utils/errors';
import { MAX_UPDATES, RequestTables } from './request-tables';
import { INPUT_DTYPES, INPUT_NAMES, StepInputs, type InputName } from './step-inputs';

/**
 * Device memory that a step's inputs are written to, allocated once, and the tables that its requests read. A step is one small
 * upload; its inputs lie at addresses that follow from its sizes alone, as CUDA graphs need.
 */
export class InputBuffers {
  readonly tables: RequestTables;
  private readonly host: StepInputs;
  private readonly area: Tensor;
  private readonly tensors: Readonly<Record<InputName, Tensor>>;
  /** int64 [numTokens]: slots of the KV cache groups after the first. */
  private readonly otherSlots: readonly Tensor[];

  constructor(
    device: Device,
    private readonly maxNumTokens: number,
    private readonly maxNumSeqs: number,
    maxBlocksPerSeq: number,
    private readonly numGroups = 1,
  ) {
    this.host = new StepInputs(maxNumTokens, maxNumSeqs, MAX_UPDATES, numGroups);
    this.area = device.empty([this.host.words.length], 'int32');
    const make = (name: InputName): Tensor => Tensor.view(this.area.storage, INPUT_DTYPES[name], 0, [1], [1]);
    this.tensors = Object.fromEntries(INPUT_NAMES.map((name) => [name, make(name)])) as Record<InputName, Tensor>;
    this.otherSlots = Array.from({ length: numGroups - 1 }, () => make('slotMapping'));
    this.tables = new RequestTables(device, maxNumSeqs, maxBlocksPerSeq, numGroups);
  }

  /** A tensor of the step that was uploaded last. */
  get(name: InputName): Tensor {
    return this.tensors[name];
  }

  /** The shapes of the largest step, for planning. */
  largest(): AttentionMetadata {
    this.begin(this.maxNumTokens, this.maxNumSeqs, MAX_UPDATES);
    return this.place();
  }

  /**
   * Starts a step: the host's side of its inputs, to be filled before {@link upload}.
   * @param numUpdates room for changes of the tables; by default what the pending ones need
   */
  begin(numTokens: number, numSeqs: number, numUpdates = Math.min(MAX_UPDATES, this.tables.numPending)): StepInputs {
    if (numTokens > this.maxNumTokens || numSeqs > this.maxNumSeqs || numUpdates > MAX_UPDATES)
      throw new KvasirError('ERR_KVASIR_NATIVE', `a step of ${numTokens} tokens and ${numSeqs} requests exceeds ${this.maxNumTokens} and ${this.maxNumSeqs}`);
    this.host.reset(numTokens, numSeqs, numUpdates);
    return this.host;
  }

  /** Writes the step and the changes of the tables noted before; the tensors have its sizes until the next call. */
  upload(): AttentionMetadata {
    const { host } = this;
    this.tables.moveTo(host);
    this.area.write(host.words.subarray(0, host.numWords));
    return this.place();
  }

  dispose(): void {
    for (const name of INPUT_NAMES) this.tensors[name].dispose();
    for (const slots of this.otherSlots) slots.dispose();
    this.area.disposeStorage();
    this.tables.dispose();
  }

  private place(): AttentionMetadata {
    const { host, tensors } = this;
    for (const name of INPUT_NAMES) {
      this.move(tensors[name], 4 * host.at[name], host.sizeOf(name));
    }
    const { slotMapping, queryStartLoc, seqLens, seqRows } = tensors;
    const first = { numTokens: host.numTokens, numSeqs: host.numSeqs, slotMapping, queryStartLoc, seqLens, seqRows, blockTable: this.tables.blockTable };
    return this.numGroups === 1 ? first : { ...first, groups: this.groupsOf(first) };
  }

  private groupsOf(first: AttentionMetadata): AttentionMetadata[] {
    const others = this.otherSlots.map((slotMapping, i) => {
      this.move(slotMapping, 4 * this.host.slotsAt(i + 1), first.numTokens);
      return { ...first, slotMapping, blockTable: this.tables.blockTables[i + 1]! };
    });
    return [first, ...others];
  }

  private move(tensor: Tensor, offset: number, size: number): void {
    if (tensor.shape[0] !== size || tensor.byteOffset !== offset) tensor.rebind(this.area.storage, offset, [size], [1]);
  }
}
