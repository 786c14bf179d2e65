/** What stands for bytes that are no UTF-8. */
export const REPLACEMENT = '\uFFFD';

/**
 * How many U+FFFD a broken sequence becomes: 'perByte' as sentencepiece does with byte-fallback tokens, 'perSequence' one
 * for every maximal part of a character, as the WHATWG decoder and Rust's from_utf8_lossy do with byte-level tokens.
 */
export type InvalidBytes = 'perByte' | 'perSequence';

/** Length of the sequence that a lead byte opens, 0 when it cannot open one. */
function sequenceLength(lead: number): number {
  if (lead < 0x80) return 1;
  if (lead >= 0xc2 && lead <= 0xdf) return 2;
  if (lead >= 0xe0 && lead <= 0xef) return 3;
  if (lead >= 0xf0 && lead <= 0xf4) return 4;
  return 0;
}

/** Whether `byte` may be the second byte after `lead`: no overlong forms, no surrogates, nothing above U+10FFFF. */
function isSecondByte(lead: number, byte: number): boolean {
  const low = lead === 0xe0 ? 0xa0 : lead === 0xf0 ? 0x90 : 0x80;
  const high = lead === 0xed ? 0x9f : lead === 0xf4 ? 0x8f : 0xbf;
  return byte >= low && byte <= high;
}

function codePointOf(bytes: readonly number[]): number {
  const lead = bytes[0] ?? 0;
  const bits = bytes.length === 2 ? lead & 0x1f : bytes.length === 3 ? lead & 0x0f : lead & 0x07;
  return bytes.slice(1).reduce((point, byte) => (point << 6) | (byte & 0x3f), bits);
}

/**
 * UTF-8 bytes in, whole characters out. Holds back at most the three bytes of a character that may still be completed and
 * answers with U+FFFD as soon as it no longer can be. (The platform's TextDecoder knows only 'perSequence'.)
 */
export class Utf8Stream {
  private pending: number[] = [];
  private needed = 0;

  constructor(private readonly invalid: InvalidBytes) {}

  /** Whether bytes are held back. */
  get isPending(): boolean {
    return this.pending.length > 0;
  }

  /** The characters that `bytes` complete. */
  push(bytes: Uint8Array): string {
    let text = '';
    for (const byte of bytes) text += this.pushByte(byte);
    return text;
  }

  /** Ends the sequence at hand: what was held back, as U+FFFD. */
  flush(): string {
    const count = this.invalid === 'perByte' ? this.pending.length : Math.min(this.pending.length, 1);
    this.pending = [];
    return REPLACEMENT.repeat(count);
  }

  private pushByte(byte: number): string {
    let broken = '';
    if (this.pending.length > 0) {
      if (this.continues(byte)) {
        this.pending.push(byte);
        if (this.pending.length < this.needed) return '';
        const character = String.fromCodePoint(codePointOf(this.pending));
        this.pending = [];
        return character;
      }
      broken = this.flush();
    }
    const length = sequenceLength(byte);
    if (length === 1) return broken + String.fromCharCode(byte);
    if (length === 0) return broken + REPLACEMENT;
    this.pending = [byte];
    this.needed = length;
    return broken;
  }

  private continues(byte: number): boolean {
    return this.pending.length === 1 ? isSecondByte(this.pending[0] ?? 0, byte) : byte >= 0x80 && byte <= 0xbf;
  }
}
