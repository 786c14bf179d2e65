/**
 * Headers of safetensors files: 8 bytes little-endian header length N, N bytes of JSON, then the tensors' data.
 * The rules are those of the reference (huggingface/safetensors, tensor.rs): offsets tile the data from 0 to the end of
 * the file with no gap and no overlap, and each span is exactly product(shape) elements. Stricter than the reference:
 * duplicate keys, whitespace before the first brace, unknown fields of a tensor, `__metadata__: null`, more than 2^20
 * tensors or 64 dimensions, and dimensions or products above 2^53 (even beside a 0) are refused.
 */
import { isUtf8 } from 'node:buffer';

import { describeValue } from '../utils/describe-value';
import { KvasirError, messageOf } from '../utils/errors';
import { readAt } from '../utils/regular-file';
import { HeaderLexer, HeaderSyntaxError } from './header-lexer';

const MAX_HEADER_BYTES = 100_000_000;
const MAX_TENSORS = 2 ** 20;
const MAX_RANK = 64;
const LENGTH_BYTES = 8;

/** Bits per element of every dtype that the format knows. */
const DTYPE_BITS = {
  BOOL: 8, F4: 4, F6_E2M3: 6, F6_E3M2: 6, U8: 8, I8: 8, F8_E5M2: 8, F8_E4M3: 8, F8_E8M0: 8, F8_E4M3FNUZ: 8, F8_E5M2FNUZ: 8,
  I16: 16, U16: 16, F16: 16, BF16: 16, I32: 32, U32: 32, F32: 32, C64: 64, F64: 64, I64: 64, U64: 64,
} as const;

export type SafetensorsDtype = keyof typeof DTYPE_BITS;

export interface SafetensorsTensor {
  readonly dtype: SafetensorsDtype;
  readonly shape: readonly number[];
  /** First byte, counted from {@link SafetensorsHeader.dataOffset}. */
  readonly begin: number;
  /** One past the last byte. */
  readonly end: number;
}

export interface SafetensorsHeader {
  /** `__metadata__`, empty when absent. */
  readonly metadata: ReadonlyMap<string, string>;
  /** By name, in the order of the header. A name is an opaque key and never a path. */
  readonly tensors: ReadonlyMap<string, SafetensorsTensor>;
  /** Where the data begins in the file; tensors need not be aligned to their element size. */
  readonly dataOffset: number;
  readonly dataLength: number;
}

/**
 * Reads and checks the header of an open file of `size` bytes; `name` is for messages.
 * @throws KvasirError ERR_KVASIR_CHECKPOINT when any rule is broken or the file cannot be read.
 */
export async function readSafetensorsHeader(file: number | { readonly fd: number }, size: number, name: string): Promise<SafetensorsHeader> {
  const fd = typeof file === 'number' ? file : file.fd;
  if (size < LENGTH_BYTES) throw damaged(name, `expected at least ${LENGTH_BYTES} bytes, received ${size}`);
  const prefix = await readExactly(fd, 0, LENGTH_BYTES, name);
  const length = prefix.readBigUInt64LE(0);
  // Compared as BigInt, and before anything of that length is allocated.
  if (length > BigInt(MAX_HEADER_BYTES)) throw damaged(name, `expected a header of at most ${MAX_HEADER_BYTES} bytes, received length ${length}`);
  if (length > BigInt(size - LENGTH_BYTES)) {
    throw damaged(name, `expected a header that fits into the file of ${size} bytes, received length ${length}`);
  }
  const header = await readExactly(fd, LENGTH_BYTES, Number(length), name);
  return parseSafetensorsHeader(header, size - LENGTH_BYTES - Number(length), name);
}

/**
 * Checks the JSON part of a header against a data section of `dataLength` bytes.
 * @throws KvasirError ERR_KVASIR_CHECKPOINT
 */
export function parseSafetensorsHeader(header: Buffer, dataLength: number, name: string): SafetensorsHeader {
  if (!isUtf8(header)) throw damaged(name, 'expected a header in UTF-8, received other bytes');
  try {
    const { metadata, tensors } = new HeaderReader(header, dataLength).read();
    checkTiling(tensors, dataLength, name);
    return { metadata, tensors, dataOffset: LENGTH_BYTES + header.length, dataLength };
  } catch (error) {
    if (error instanceof HeaderSyntaxError) throw damaged(name, `header at byte ${error.position}: ${error.message}`, error);
    throw error;
  }
}

class HeaderReader {
  private readonly lexer: HeaderLexer;
  private readonly tensors = new Map<string, SafetensorsTensor>();
  private metadata: Map<string, string> | null = null;
  /** Tensors may not overlap, so their sizes may never add up to more than the data: an early end for header bombs. */
  private bytesClaimed = 0;

  constructor(
    private readonly header: Buffer,
    private readonly dataLength: number,
  ) {
    this.lexer = new HeaderLexer(header);
  }

  read(): { metadata: Map<string, string>; tensors: Map<string, SafetensorsTensor> } {
    if (this.header[0] !== 0x7b) this.lexer.fail("expected '{' as the first byte");
    this.lexer.object((key) => {
      if (key === '__metadata__') this.readMetadata();
      else this.readTensor(key);
    });
    if (this.lexer.peek() !== -1) this.lexer.fail('expected nothing after the object');
    return { metadata: this.metadata ?? new Map(), tensors: this.tensors };
  }

  private readMetadata(): void {
    if (this.metadata !== null) this.lexer.fail("expected '__metadata__' once, received it twice");
    const metadata = (this.metadata = new Map<string, string>());
    this.lexer.object((key) => {
      if (metadata.has(key)) this.lexer.fail(`expected each key of __metadata__ once, received ${describeValue(key)} twice`);
      metadata.set(key, this.lexer.string());
    });
  }

  private readTensor(name: string): void {
    const { lexer, tensors } = this;
    if (tensors.has(name)) lexer.fail(`expected each tensor once, received ${describeValue(name)} twice`);
    if (tensors.size === MAX_TENSORS) lexer.fail(`expected at most ${MAX_TENSORS} tensors`);
    const tensor = this.readTensorInfo();
    this.checkSize(name, tensor);
    tensors.set(name, tensor);
  }

  private readTensorInfo(): SafetensorsTensor {
    const { lexer } = this;
    let dtype: SafetensorsDtype | undefined;
    let shape: number[] | undefined;
    let offsets: number[] | undefined;
    lexer.object((key) => {
      if (key === 'dtype' && dtype === undefined) dtype = this.readDtype();
      else if (key === 'shape' && shape === undefined) shape = lexer.integers(MAX_RANK);
      else if (key === 'data_offsets' && offsets === undefined) offsets = lexer.integers(2);
      else lexer.fail(`expected dtype, shape and data_offsets, each once, received ${describeValue(key)}`);
    });
    const [begin, end] = offsets ?? [];
    if (dtype === undefined || shape === undefined || begin === undefined || end === undefined) {
      this.lexer.fail('expected dtype, shape and two data_offsets, received an incomplete tensor');
    }
    return { dtype, shape, begin, end };
  }

  private readDtype(): SafetensorsDtype {
    const dtype = this.lexer.string();
    if (!Object.hasOwn(DTYPE_BITS, dtype)) {
      this.lexer.fail(`expected a dtype of ${Object.keys(DTYPE_BITS).join(', ')}; received ${describeValue(dtype)}`);
    }
    return dtype as SafetensorsDtype;
  }

  private checkSize(name: string, { dtype, shape, begin, end }: SafetensorsTensor): void {
    const tensor = `tensor ${describeValue(name)}`;
    if (end < begin || end > this.dataLength) {
      this.lexer.fail(`${tensor}: expected data_offsets within the ${this.dataLength} bytes of data, received [${begin}, ${end}]`);
    }
    const bytes = byteLength(dtype, shape);
    if (bytes === null) this.lexer.fail(`${tensor}: expected a whole number of bytes below 2^53, received ${dtype} [${shape.join(', ')}]`);
    if (bytes !== end - begin) {
      this.lexer.fail(`${tensor}: expected ${bytes} bytes for ${dtype} [${shape.join(', ')}], received ${end - begin}`);
    }
    this.bytesClaimed += bytes;
    if (this.bytesClaimed > this.dataLength) this.lexer.fail(`${tensor}: expected tensors that do not overlap`);
  }
}

/** Bytes of a tensor; null when the product overflows exact integers or a sub-byte type does not end on a byte. */
function byteLength(dtype: SafetensorsDtype, shape: readonly number[]): number | null {
  let bits: number = DTYPE_BITS[dtype];
  for (const dim of shape) {
    bits *= dim;
    if (bits > Number.MAX_SAFE_INTEGER) return null;
  }
  return bits % 8 === 0 ? bits / 8 : null;
}

/** With sizes checked and their sum bounded, only the positions are left: sorted, each must begin where the last ended. */
function checkTiling(tensors: ReadonlyMap<string, SafetensorsTensor>, dataLength: number, file: string): void {
  const sorted = [...tensors].sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end);
  let position = 0;
  for (const [name, { begin, end }] of sorted) {
    if (begin !== position) {
      const what = begin > position ? 'no gap between tensors' : 'no overlap of tensors';
      throw damaged(file, `tensor ${describeValue(name)}: expected ${what}: begin ${position}, received ${begin}`);
    }
    position = end;
  }
  if (position !== dataLength) {
    throw damaged(file, `expected tensors that fill the ${dataLength} bytes of data, received ${position} bytes of tensors`);
  }
}

async function readExactly(fd: number, position: number, length: number, name: string): Promise<Buffer> {
  let bytes: Buffer;
  try {
    bytes = await readAt(fd, position, length);
  } catch (error) {
    throw damaged(name, `expected a readable file: ${messageOf(error)}`, error);
  }
  if (bytes.length !== length) throw damaged(name, `expected ${length} bytes at byte ${position}, received ${bytes.length}: the file was truncated`);
  return bytes;
}

function damaged(name: string, message: string, cause?: unknown): KvasirError {
  return new KvasirError('ERR_KVASIR_CHECKPOINT', `${name}: ${message}`, { cause });
}
