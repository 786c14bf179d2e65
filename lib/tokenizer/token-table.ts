import type { DecodeRules } from './decode-rules';
import { REPLACEMENT, Utf8Stream } from './utf8-stream';

/** What one token adds to the text. */
export interface TokenPiece {
  /** The text when it is whole characters, else null. */
  readonly text: string | null;
  /** UTF-8 bytes when `text` is null: part of a character, or no UTF-8 at all. */
  readonly bytes: Uint8Array;
  /** Joined without the separator. */
  readonly joins: boolean;
  /** The word ends here: a blank follows if anything follows. */
  readonly endsWord: boolean;
}

const NO_BYTES = new Uint8Array(0);
const BYTE_TOKEN = /^<0x([0-9A-Fa-f]{2})>$/;

/** GPT-2's alphabet: every byte has a printable character; those that are not printable themselves follow from U+0100 on. */
function byteLevelAlphabet(): ReadonlyMap<string, number> {
  const isPrintable = (byte: number): boolean => (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
  const alphabet = new Map<string, number>();
  let next = 0x100;
  for (let byte = 0; byte < 256; byte++) alphabet.set(String.fromCharCode(isPrintable(byte) ? byte : next++), byte);
  return alphabet;
}

const ALPHABET = byteLevelAlphabet();

/** Bytes of a byte-level token; null when a character is not in the alphabet (then the token stands for itself). */
function byteLevelBytes(token: string): Uint8Array | null {
  const bytes = new Uint8Array(token.length);
  for (let i = 0; i < token.length; i++) {
    const byte = ALPHABET.get(token.charAt(i));
    if (byte === undefined) return null;
    bytes[i] = byte;
  }
  return bytes;
}

/** The text of bytes that are whole characters, else null. */
function wholeText(bytes: Uint8Array): string | null {
  const utf8 = new Utf8Stream('perSequence');
  const text = utf8.push(bytes);
  return utf8.isPending || text.includes(REPLACEMENT) ? null : text;
}

/** Pieces of all tokens, made when first asked for. */
export class TokenTable {
  private readonly pieces: (TokenPiece | undefined)[] = [];

  /**
   * @param tokenOf the token string of an id, null for ids that name none
   * @param addedTokenIds tokens that stand for their own text and never for bytes
   */
  constructor(
    readonly rules: DecodeRules,
    private readonly tokenOf: (id: number) => string | null,
    private readonly addedTokenIds: ReadonlySet<number>,
  ) {}

  /** The piece of `id`; null for ids that name no token: they add nothing, as in the Rust library. */
  pieceOf(id: number): TokenPiece | null {
    const known = this.pieces[id];
    if (known !== undefined) return known;
    const token = this.tokenOf(id);
    if (token === null) return null;
    return (this.pieces[id] = this.makePiece(token, this.addedTokenIds.has(id)));
  }

  /** The text of `id` where it is the first token of all and the rules drop a prefix there. */
  firstTextOf(id: number): string | null {
    const drops = this.rules.firstTokenDrops;
    const token = this.tokenOf(id);
    return drops === null || token === null || this.pieceOf(id)?.text === null ? null : this.replaced(token.replaceAll(drops, ''));
  }

  private makePiece(token: string, isAdded: boolean): TokenPiece {
    const bytes = isAdded ? null : this.bytesOf(token);
    if (bytes !== null) {
      const text = this.rules.byteFallback && (bytes[0] ?? 0) >= 0x80 ? null : wholeText(bytes);
      return { text, bytes: text === null ? bytes : NO_BYTES, joins: false, endsWord: false };
    }
    return this.textPiece(token);
  }

  private bytesOf(token: string): Uint8Array | null {
    if (this.rules.byteLevel) return byteLevelBytes(token);
    const hex = this.rules.byteFallback ? BYTE_TOKEN.exec(token)?.[1] : undefined;
    return hex === undefined ? null : Uint8Array.of(parseInt(hex, 16));
  }

  private textPiece(token: string): TokenPiece {
    const { continuationPrefix, wordSuffix } = this.rules;
    let text = this.replaced(token);
    const joins = continuationPrefix !== null && continuationPrefix !== '' && text.startsWith(continuationPrefix);
    if (joins) text = text.slice(continuationPrefix.length);
    const endsWord = wordSuffix !== null && text.endsWith(wordSuffix);
    if (endsWord) text = text.slice(0, -wordSuffix.length);
    return { text, bytes: NO_BYTES, joins, endsWord };
  }

  private replaced(token: string): string {
    return this.rules.replacements.reduce((text, { pattern, content }) => text.replaceAll(pattern, content), token);
  }
}
