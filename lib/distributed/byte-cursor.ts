import { KvasirError } from '../utils/errors';

/** Reads numbers (little endian) and strings from bytes that may be damaged: whatever is not there or out of range throws ERR_KVASIR_RANK. */
export class ByteCursor {
  private readonly view: DataView;
  private readonly bytes: Buffer;
  private at = 0;

  constructor(bytes: Uint8Array) {
    this.bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  get remaining(): number {
    return this.bytes.length - this.at;
  }

  uint8(): number {
    this.need(1);
    return this.bytes[this.at++]!;
  }

  /** An int32 that is not negative. */
  count(what: string): number {
    this.need(4);
    const value = this.view.getInt32(this.at, true);
    if (value < 0) throw damaged(`${what} ${value}`);
    this.at += 4;
    return value;
  }

  /** How many items follow that take at least `bytesEach`: nothing is allocated for items that cannot be there. */
  length(what: string, bytesEach: number): number {
    const value = this.count(what);
    if (value * bytesEach > this.remaining) throw damaged(`${what} ${value} with ${this.remaining} bytes left`);
    return value;
  }

  /** This many int32 that are not negative. */
  counts(what: string, length: number): number[] {
    this.need(4 * length);
    const values = new Array<number>(length);
    for (let i = 0; i < length; i++) {
      const value = this.view.getInt32(this.at + 4 * i, true);
      if (value < 0) throw damaged(`${what} ${value}`);
      values[i] = value;
    }
    this.at += 4 * length;
    return values;
  }

  string(numBytes: number, encoding: 'utf8' | 'utf16le'): string {
    this.need(numBytes);
    const from = this.at;
    this.at += numBytes;
    return this.bytes.toString(encoding, from, this.at);
  }

  private need(numBytes: number): void {
    if (numBytes > this.remaining) throw damaged(`${this.remaining} bytes where ${numBytes} must follow`);
  }
}

export function damaged(received: string): KvasirError {
  return new KvasirError('ERR_KVASIR_RANK', `expected a step of rank 0, received a damaged one: ${received}`);
}
