import type { DType } from '../config/vllm';

/** The inputs of a step: names of stretches of int32 words. */
export const INPUT_DTYPES = {
  /** Per token: block * blockSize + offset of its KV; -1 writes nothing. Those of every KV cache group, one group after another. */
  slotMapping: 'int64',
  inputIds: 'int32',
  positions: 'int32',
  /** Per token: the request row whose last sampled token it is, when only the device knows it; else -1. */
  feedbackRows: 'int32',
  /** [numSeqs + 1]: where each request's tokens start, and where the last one's end. */
  queryStartLoc: 'int32',
  /** Per request: KV length after this step. */
  seqLens: 'int32',
  /** Per request: its row of the block table. */
  seqRows: 'int32',
  /** Per row of logits: the token whose logits they are. */
  logitRows: 'int32',
  /** Per row of logits: the request row that draws from it, -1 for padding; and the position of the token that is drawn. */
  sampleRows: 'int32',
  samplePositions: 'int32',
  /** Changes of the tables of requests: places among their words (-1: none), and what belongs there. */
  updateIndices: 'int32',
  updateValues: 'int32',
} as const satisfies Readonly<Record<string, DType>>;

export type InputName = keyof typeof INPUT_DTYPES;

export const INPUT_NAMES = Object.keys(INPUT_DTYPES) as InputName[];

/** Every input starts at a multiple of this many words (16 bytes). */
const ALIGNMENT = 4;

/**
 * A step's inputs on the host as one stretch of int32 words, in the arrangement that they have on the device: one upload moves
 * them all. Where an input lies follows from the numbers of tokens, requests and updates alone. Used again for every step.
 */
export class StepInputs {
  readonly words: Int32Array;
  /** First word of each input. */
  readonly at: Record<InputName, number>;
  numTokens = 0;
  numSeqs = 0;
  numUpdates = 0;
  /** Rows of logits, at most numSeqs. */
  numLogits = 0;
  /** Words in use. */
  numWords = 0;

  constructor(
    maxNumTokens: number,
    maxNumSeqs: number,
    maxNumUpdates: number,
    readonly numGroups = 1,
  ) {
    this.at = Object.fromEntries(INPUT_NAMES.map((name) => [name, 0])) as Record<InputName, number>;
    this.reset(maxNumTokens, maxNumSeqs, maxNumUpdates);
    this.words = new Int32Array(this.numWords);
  }

  /** Lays out a step of these sizes; the words keep what they held. */
  reset(numTokens: number, numSeqs: number, numUpdates: number): void {
    this.numLogits = numSeqs;
    if (numTokens === this.numTokens && numSeqs === this.numSeqs && numUpdates === this.numUpdates) return;
    this.numTokens = numTokens;
    this.numSeqs = numSeqs;
    this.numUpdates = numUpdates;
    let end = 0;
    for (const name of INPUT_NAMES) {
      this.at[name] = end;
      end += Math.ceil(this.wordsOf(name) / ALIGNMENT) * ALIGNMENT;
    }
    this.numWords = end;
  }

  /** First word of a group's slots. */
  slotsAt(group: number): number {
    return this.at.slotMapping + 2 * group * this.numTokens;
  }

  /** Elements of an input of this step; of slotMapping, those of one group. */
  sizeOf(name: InputName): number {
    switch (name) {
      case 'slotMapping':
      case 'inputIds':
      case 'positions':
      case 'feedbackRows':
        return this.numTokens;
      case 'queryStartLoc':
        return this.numSeqs + 1;
      case 'seqLens':
      case 'seqRows':
        return this.numSeqs;
      case 'logitRows':
      case 'sampleRows':
      case 'samplePositions':
        return this.numLogits;
      default:
        return this.numUpdates;
    }
  }

  /** Words set aside for an input; those of logits have room for every request. */
  private wordsOf(name: InputName): number {
    if (name === 'slotMapping') return 2 * this.numGroups * this.numTokens;
    const isOfLogits = name === 'logitRows' || name === 'sampleRows' || name === 'samplePositions';
    return isOfLogits ? this.numSeqs : this.sizeOf(name);
  }
}
