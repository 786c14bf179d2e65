import * as fc from 'fast-check';
import { StopMatcher } from '../../lib/engine/stop-matcher';

/** The definition: the stop string that ends first, the list's order deciding between those that end together. */
function naive(text: string, stops: readonly string[]): { stop: string; end: number } | null {
  for (let end = 1; end <= text.length; end++) {
    const stop = stops.find((s) => text.slice(0, end).endsWith(s));
    if (stop !== undefined) return { stop, end };
  }
  return null;
}

/** Longest end of the text that begins, but is not, a stop string. */
function naivePending(text: string, stops: readonly string[]): number {
  for (let length = text.length; length > 0; length--) {
    const end = text.slice(text.length - length);
    if (stops.some((s) => s.length > length && s.startsWith(end))) return length;
  }
  return 0;
}

const word = (max: number) => fc.string({ unit: fc.constantFrom('a', 'b'), minLength: 1, maxLength: max });

describe('StopMatcher', () => {
  test('finds what a naive search finds, however the text is cut', () => {
    fc.assert(
      fc.property(fc.array(word(4), { maxLength: 8 }), fc.array(word(5), { minLength: 1, maxLength: 3 }), (pieces, stops) => {
        const matcher = new StopMatcher(stops);
        let text = '';
        for (const piece of pieces) {
          const match = matcher.push(piece, true);
          const expected = naive(text + piece, stops);
          if (match !== null || expected !== null) {
            expect(match).toEqual({ stop: expected?.stop, end: (expected?.end ?? 0) - text.length });
            return;
          }
          text += piece;
          expect(matcher.pending).toBe(naivePending(text, stops));
        }
      }),
    );
  });

  test('passes over matches while disabled, but not over what they leave', () => {
    const matcher = new StopMatcher(['abab']);
    expect(matcher.push('abab', false)).toBeNull();
    expect(matcher.pending).toBe(2);
    expect(matcher.push('ab', true)).toEqual({ stop: 'abab', end: 2 });
  });

  test('takes time linear in the text for the worst of stop strings', () => {
    const matcher = new StopMatcher([`${'a'.repeat(1000)}b`]);
    expect(matcher.push('a'.repeat(300_000), true)).toBeNull();
    expect(matcher.pending).toBe(1000);
  });
});
