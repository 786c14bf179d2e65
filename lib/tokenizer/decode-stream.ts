import type { TokenTable } from './token-table';
import { Utf8Stream } from './utf8-stream';

export interface DecodeOptions {
  /** Leave special tokens out. Default true. */
  readonly skipSpecialTokens?: boolean;
  /** Where the decoder puts blanks between tokens (WordPiece, none): also between neighbouring added tokens. Default true. */
  readonly spacesBetweenSpecialTokens?: boolean;
}

/**
 * Token ids in, whole characters out, in constant time per token. `Tokenizer.decode` and the incremental detokenizer both
 * are this class, so a stream and a decode in one go cannot disagree.
 */
export class DecodeStream {
  private readonly utf8: Utf8Stream;
  private readonly skipSpecial: boolean;
  private readonly spacesBetweenAdded: boolean;
  private stripLeft: number;
  private isFirst = true;
  private blankOwed = false;
  private lastWasAdded = false;

  constructor(
    private readonly table: TokenTable,
    private readonly specialTokenIds: ReadonlySet<number>,
    private readonly addedTokenIds: ReadonlySet<number>,
    options: DecodeOptions = {},
  ) {
    this.utf8 = new Utf8Stream(table.rules.invalidBytes);
    this.stripLeft = table.rules.stripStart?.count ?? 0;
    this.skipSpecial = options.skipSpecialTokens ?? true;
    this.spacesBetweenAdded = this.skipSpecial || (options.spacesBetweenSpecialTokens ?? true);
  }

  /** Whether rules for the beginning of the text still wait for their first token or character. */
  get isAtStart(): boolean {
    return this.isFirst || this.stripLeft > 0;
  }

  /** Text that is complete with this token; '' while a character is unfinished. */
  push(id: number): string {
    if (this.skipSpecial && this.specialTokenIds.has(id)) return '';
    const piece = this.table.pieceOf(id);
    if (piece === null) return '';
    const first = this.isFirst;
    const isAdded = this.addedTokenIds.has(id);
    const glue = first ? '' : this.glueBefore(isAdded, piece.joins);
    this.isFirst = false;
    this.lastWasAdded = isAdded;
    this.blankOwed = piece.endsWord;
    if (piece.text === null) return this.stripped(this.utf8.push(piece.bytes));
    const text = glue + ((first ? this.table.firstTextOf(id) : null) ?? piece.text);
    if (text === '') return '';
    return this.stripped(this.utf8.isPending ? this.utf8.flush() + text : text);
  }

  /** What was held back: U+FFFD for a character that never got complete. */
  finish(): string {
    return this.stripped(this.utf8.flush());
  }

  private glueBefore(isAdded: boolean, joins: boolean): string {
    if (this.blankOwed) return ' ';
    if (joins || (isAdded && this.lastWasAdded && !this.spacesBetweenAdded)) return '';
    return this.table.rules.separator;
  }

  private stripped(text: string): string {
    if (this.stripLeft === 0 || text === '') return text;
    let cut = 0;
    while (cut < this.stripLeft && text.charAt(cut) === this.table.rules.stripStart?.content) cut++;
    this.stripLeft = cut < text.length ? 0 : this.stripLeft - cut;
    return text.slice(cut);
  }
}
