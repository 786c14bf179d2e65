/**
 * A strict reader for the JSON subset of safetensors headers: objects, arrays, strings and non-negative integers.
 * JSON.parse is too lax for it (it keeps the last of duplicate keys, and rounds integers above 2^53), and a parser driven
 * by the expected structure needs no recursion, so depth in the file cannot exhaust the stack.
 */

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const ZERO = 0x30;
const NINE = 0x39;
/** 2^53 = 10 * this + 2: the last integer that a double holds together with all below it. */
const TENTH_OF_LIMIT = 900719925474099;
const ESCAPES: Readonly<Record<string, string>> = {
  '"': '"', '\\': '\\', '/': '/', b: '\b', f: '\f', n: '\n', r: '\r', t: '\t',
};

/** Why the bytes were refused, in words that follow "header at byte N: ". */
export class HeaderSyntaxError extends Error {
  constructor(
    readonly position: number,
    message: string,
  ) {
    super(message);
    this.name = 'HeaderSyntaxError';
  }
}

/** Reads from `bytes`, which must be valid UTF-8, from left to right. */
export class HeaderLexer {
  position = 0;

  constructor(private readonly bytes: Buffer) {}

  /** Fails at the current byte. */
  fail(message: string): never {
    throw new HeaderSyntaxError(this.position, message);
  }

  /** Skips whitespace; the byte that follows, or -1 at the end. */
  peek(): number {
    for (;;) {
      const byte = this.bytes[this.position];
      if (byte === undefined) return -1;
      if (byte !== 0x20 && byte !== 0x0a && byte !== 0x0d && byte !== 0x09) return byte;
      this.position += 1;
    }
  }

  /** Consumes one punctuation character. */
  expect(char: string): void {
    const byte = this.peek();
    if (byte !== char.charCodeAt(0)) this.fail(`expected '${char}', received ${show(byte)}`);
    this.position += 1;
  }

  /** Consumes `char` if it is next. */
  accept(char: string): boolean {
    if (this.peek() !== char.charCodeAt(0)) return false;
    this.position += 1;
    return true;
  }

  /** Reads the members of an object; `member` is called with each key when its value is next. */
  object(member: (key: string) => void): void {
    this.expect('{');
    if (this.accept('}')) return;
    do {
      this.peek();
      const key = this.string();
      this.expect(':');
      member(key);
    } while (this.accept(','));
    this.expect('}');
  }

  /** An array of non-negative integers with at most `maxLength` elements. */
  integers(maxLength: number): number[] {
    const values: number[] = [];
    this.expect('[');
    if (this.accept(']')) return values;
    do {
      if (values.length === maxLength) this.fail(`expected at most ${maxLength} numbers`);
      values.push(this.integer());
    } while (this.accept(','));
    this.expect(']');
    return values;
  }

  /** Digits only: no sign, fraction, exponent or leading zero; at most 2^53. */
  integer(): number {
    const first = this.peek();
    if (first < ZERO || first > NINE) this.fail(`expected a non-negative integer, received ${show(first)}`);
    const start = this.position;
    let value = 0;
    for (let byte = first; byte >= ZERO && byte <= NINE; byte = this.bytes[this.position] ?? -1) {
      const digit = byte - ZERO;
      if (value > TENTH_OF_LIMIT || (value === TENTH_OF_LIMIT && digit > 2)) this.fail('expected an integer of at most 2^53');
      value = value * 10 + digit;
      this.position += 1;
    }
    if (first === ZERO && this.position - start > 1) this.fail('expected an integer without leading zeros');
    const next = this.bytes[this.position];
    if (next === 0x2e || next === 0x65 || next === 0x45) this.fail('expected an integer, received a fraction or exponent');
    return value;
  }

  string(): string {
    const byte = this.peek();
    if (byte !== QUOTE) this.fail(`expected a string, received ${show(byte)}`);
    this.position += 1;
    let text = '';
    let start = this.position;
    for (;;) {
      const next = this.bytes[this.position];
      if (next === undefined) this.fail('expected the end of a string, received the end of the header');
      if (next < 0x20) this.fail('expected no control characters in a string');
      if (next === QUOTE || next === BACKSLASH) {
        text += this.bytes.toString('utf8', start, this.position);
        this.position += 1;
        if (next === QUOTE) return text;
        text += this.escape();
        start = this.position;
      } else {
        this.position += 1;
      }
    }
  }

  private escape(): string {
    const char = String.fromCharCode(this.bytes[this.position] ?? 0);
    if (char === 'u') return this.unicodeEscape();
    const text = Object.hasOwn(ESCAPES, char) ? ESCAPES[char] : undefined;
    if (text === undefined) this.fail('expected a JSON escape after the backslash');
    this.position += 1;
    return text;
  }

  /** \uXXXX, or a surrogate pair of two; a lone surrogate is no text. */
  private unicodeEscape(): string {
    const high = this.hex4();
    if (high >= 0xdc00 && high <= 0xdfff) this.fail('expected a surrogate pair, received a lone low surrogate');
    if (high < 0xd800 || high > 0xdbff) return String.fromCharCode(high);
    if (this.bytes[this.position] !== BACKSLASH || this.bytes[this.position + 1] !== 0x75) {
      this.fail('expected a surrogate pair, received a lone high surrogate');
    }
    this.position += 1;
    const low = this.hex4();
    if (low < 0xdc00 || low > 0xdfff) this.fail('expected a surrogate pair, received a lone high surrogate');
    return String.fromCharCode(high, low);
  }

  /** Stands on the 'u'; consumes it and four hexadecimal digits. */
  private hex4(): number {
    const digits = this.bytes.toString('latin1', this.position + 1, this.position + 5);
    if (!/^[0-9a-fA-F]{4}$/.test(digits)) this.fail('expected four hexadecimal digits after \\u');
    this.position += 5;
    return Number.parseInt(digits, 16);
  }
}

function show(byte: number): string {
  if (byte === -1) return 'the end of the header';
  return byte > 0x20 && byte < 0x7f ? `'${String.fromCharCode(byte)}'` : `byte 0x${byte.toString(16).padStart(2, '0')}`;
}
