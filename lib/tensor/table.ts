import { loadBinding } from '../binding/load';
import type { Row } from '../binding/native';
import type { DType } from '../config/vllm';
import { KvasirError } from '../utils/errors';
import { DTYPE_IDS } from './dtype';

/** Most dimensions a tensor can have. */
export const MAX_RANK = 5;

/** Words of a row; the layout stands in native/addon/context.h. */
const ROW_WORDS = 16;
const FIRST_CAPACITY = 4096;

/** The row of every disposed tensor: it never names a storage. */
export const DISPOSED_ROW = 0 as Row;

/**
 * The tensor table of this thread: 64 bytes per tensor in memory that the addon reads. Only this file writes it.
 * Rows are recycled; a disposed tensor has {@link DISPOSED_ROW}, so that an op that still uses it fails with ERR_KVASIR_DISPOSED.
 */
class TensorTable {
  private words = new Int32Array(FIRST_CAPACITY * ROW_WORDS);
  private offsets = new Float64Array(this.words.buffer);
  private readonly free: number[] = [];
  private next = 1;

  constructor() {
    this.words.fill(-1);
    loadBinding().setTable(this.words);
  }

  /** Rows in use. */
  get liveRows(): number {
    return this.next - 1 - this.free.length;
  }

  allocateRow(): Row {
    const recycled = this.free.pop();
    if (recycled !== undefined) return recycled as Row;
    if ((this.next + 1) * ROW_WORDS > this.words.length) this.grow();
    return this.next++ as Row;
  }

  freeRow(row: Row): void {
    this.words[row * ROW_WORDS] = -1;
    this.free.push(row);
  }

  write(row: Row, storage: number, dtype: DType, byteOffset: number, shape: readonly number[], strides: readonly number[], packed: boolean): void {
    const at = row * ROW_WORDS;
    const words = this.words;
    words[at] = storage;
    words[at + 1] = DTYPE_IDS[dtype];
    words[at + 2] = shape.length;
    words[at + 3] = packed ? 1 : 0;
    this.offsets[(at + 4) / 2] = byteOffset;
    for (let i = 0; i < shape.length; i++) {
      words[at + 6 + i] = shape[i]!;
      words[at + 11 + i] = strides[i]!;
    }
  }

  private grow(): void {
    const larger = new Int32Array(this.words.length * 2).fill(-1);
    larger.set(this.words);
    this.words = larger;
    this.offsets = new Float64Array(larger.buffer);
    loadBinding().setTable(larger);
  }
}

let table: TensorTable | null = null;

/** The table of this thread, made on first use (loads the addon). */
export function tensorTable(): TensorTable {
  return (table ??= new TensorTable());
}

/** Checks what a table row can hold. */
export function checkShape(shape: readonly number[]): void {
  if (shape.length > MAX_RANK) throw new KvasirError('ERR_KVASIR_TENSOR', `a tensor has at most ${MAX_RANK} dimensions, got [${shape.join(', ')}]`);
  for (const size of shape)
    if (!Number.isInteger(size) || size < 0 || size > 0x7fffffff)
      throw new KvasirError('ERR_KVASIR_TENSOR', `tensor sizes must be integers in 0..2147483647, got [${shape.join(', ')}]`);
}
