import type { DecodeOptions, DecodeStream } from './decode-stream';
import type { Tokenizer } from './tokenizer';

/** A character has at most four bytes: three tokens of a byte each may await the fourth. */
const CHARACTER_TOKENS = 3;

/**
 * Turns the output tokens of one request into text as they come, the way vLLM's v1 detokenizer does: the text continues the
 * prompt, so a leading blank stays (rules for the beginning of a text are used up by the prompt), and a character whose
 * first bytes are the prompt's last tokens is completed. Whole characters only, constant time per token.
 */
export class IncrementalDetokenizer {
  private readonly stream: DecodeStream;

  /** @param promptTokenIds what the output continues; may be empty */
  constructor(tokenizer: Tokenizer, promptTokenIds: readonly number[], options: DecodeOptions = {}) {
    this.stream = tokenizer.createDecodeStream(options);
    // Only the beginning (for the rules of the first token) and the last tokens can matter to what follows.
    let next = 0;
    while (next < promptTokenIds.length && this.stream.isAtStart) this.stream.push(promptTokenIds[next++] ?? 0);
    for (const id of lastTextTokens(tokenizer, promptTokenIds, next, options)) this.stream.push(id);
  }

  /** The text that these tokens complete; '' while a character is unfinished. */
  push(ids: readonly number[]): string {
    let text = '';
    for (const id of ids) text += this.stream.push(id);
    return text;
  }

  /** Ends the output: what is still held back, as U+FFFD. */
  finish(): string {
    return this.stream.finish();
  }
}

/** The last tokens from `from` on that can hold an unfinished character; skipped special tokens do not count. */
function lastTextTokens(tokenizer: Tokenizer, ids: readonly number[], from: number, options: DecodeOptions): number[] {
  const skips = options.skipSpecialTokens ?? true;
  const last: number[] = [];
  for (let i = ids.length - 1; i >= from && last.length < CHARACTER_TOKENS; i--) {
    const id = ids[i] ?? 0;
    if (!skips || !tokenizer.specialTokenIds.has(id)) last.unshift(id);
  }
  return last;
}
