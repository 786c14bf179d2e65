/** A stop string that ended inside a fed piece; `end` counts UTF-16 units of that piece, the stop string's last one included. */
export interface StopMatch {
  readonly stop: string;
  readonly end: number;
}

/**
 * Looks for stop strings in text that arrives in pieces. One Knuth-Morris-Pratt automaton per stop string: the cost per character does
 * not depend on how the text repeats itself, and the state is exactly the length of text that may turn out to begin a stop string.
 */
export class StopMatcher {
  private readonly automata: { readonly stop: string; readonly failure: readonly number[]; state: number }[];

  constructor(stops: readonly string[]) {
    this.automata = stops.map((stop) => ({ stop, failure: failureTable(stop), state: 0 }));
  }

  /**
   * Feeds the next piece. Returns the stop string that ends first (of those that end together, the first in the list); the matcher is
   * then spent. With `enabled` false matches are passed over, but what they leave may still begin a later one.
   */
  push(piece: string, enabled: boolean): StopMatch | null {
    for (let i = 0; i < piece.length && this.automata.length > 0; i++) {
      const unit = piece.charCodeAt(i);
      for (const automaton of this.automata) {
        const { stop, failure } = automaton;
        let state = automaton.state;
        while (state > 0 && stop.charCodeAt(state) !== unit) state = failure[state - 1] ?? 0;
        if (stop.charCodeAt(state) === unit) state++;
        if (state === stop.length) {
          if (enabled) return { stop, end: i + 1 };
          state = failure[state - 1] ?? 0;
        }
        automaton.state = state;
      }
    }
    return null;
  }

  /** UTF-16 units at the end of the text so far that may begin a stop string. */
  get pending(): number {
    let longest = 0;
    for (const { state } of this.automata) longest = Math.max(longest, state);
    return longest;
  }
}

/** failure[i]: length of the longest proper prefix of `stop` that is also a suffix of stop[0..i]. */
function failureTable(stop: string): number[] {
  const failure = [0];
  for (let i = 1, length = 0; i < stop.length; i++) {
    while (length > 0 && stop.charCodeAt(i) !== stop.charCodeAt(length)) length = failure[length - 1] ?? 0;
    if (stop.charCodeAt(i) === stop.charCodeAt(length)) length++;
    failure.push(length);
  }
  return failure;
}
