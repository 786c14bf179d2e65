import * as fc from 'fast-check';
import { IncrementalDetokenizer } from '../../lib/tokenizer/detokenizer';
import { Tokenizer } from '../../lib/tokenizer/tokenizer';
import { describeShared, sharedPath } from '../fixtures/shared';
import { MODELS, sharedTokenizer, TOKENIZERS, tinyByteFallbackJson, tinyByteLevelJson } from './fixtures';

const HALF_PAIR = /[\uD800-\uDBFF]$/;

/** Texts of the kind that break detokenizers: emoji, joined emoji, flags, CJK, combining marks, blanks, controls, any character. */
const texts = fc
  .array(
    fc.oneof(
      fc.string({ maxLength: 6 }),
      fc.string({ unit: 'grapheme', maxLength: 4 }),
      fc.string({ unit: 'binary', maxLength: 4 }),
      fc.constantFrom('👨‍👩‍👧‍👦', '🏳️‍🌈', '🇳🇴', '你好', 'e\u0301', 'ﷺ', '\u200D', '  ', ' \n', '\t', '\uFEFF', '<s>', '<0x41>', '▁', 'Ġ', "don't", '１２３'),
    ),
    { maxLength: 12 },
  )
  .map((parts) => parts.join(''));

/** Streams ids in the given groups and checks that nothing is ever half a character. */
function streamed(tokenizer: Tokenizer, prompt: number[], groups: number[][], skipSpecialTokens: boolean): string {
  const detokenizer = new IncrementalDetokenizer(tokenizer, prompt, { skipSpecialTokens });
  let text = '';
  for (const group of groups) {
    const piece = detokenizer.push(group);
    expect(piece).not.toMatch(HALF_PAIR);
    text += piece;
  }
  return text + detokenizer.finish();
}

function checkStreams(tokenizer: Tokenizer, numRuns: number): void {
  const id = fc.integer({ min: 0, max: tokenizer.maxTokenId + 3 });
  const byteIds = Array.from({ length: 256 }, (_, byte) => tokenizer.tokenToId(`<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`)).filter((each) => each !== null);
  const anyId = byteIds.length > 0 ? fc.oneof(id, fc.constantFrom(...byteIds)) : id;
  fc.assert(
    fc.property(texts, (text) => {
      const ids = tokenizer.encode(text);
      for (const skip of [true, false]) {
        expect(streamed(tokenizer, [], ids.map((each) => [each]), skip)).toBe(tokenizer.decode(ids, { skipSpecialTokens: skip }));
      }
    }),
    { numRuns },
  );
  fc.assert(
    fc.property(fc.array(anyId, { maxLength: 6 }), fc.array(fc.array(anyId, { maxLength: 3 }), { maxLength: 12 }), fc.boolean(), (prompt, groups, skip) => {
      const ids = groups.flat();
      expect(streamed(tokenizer, [], groups, skip)).toBe(tokenizer.decode(ids, { skipSpecialTokens: skip }));
      // In the context of a prompt: what the prompt's own text lacks (an unfinished character at its end counts to the output).
      const before = tokenizer.createDecodeStream({ skipSpecialTokens: skip });
      const head = prompt.map((each) => before.push(each)).join('');
      expect(head + streamed(tokenizer, prompt, groups, skip)).toBe(tokenizer.decode([...prompt, ...ids], { skipSpecialTokens: skip }));
    }),
    { numRuns },
  );
}

describe('streaming equals decoding at once, never half a character', () => {
  it('for a byte-level tokenizer', () => checkStreams(Tokenizer.fromJson(tinyByteLevelJson()), 300));
  it('for a tokenizer with byte fallback', () => checkStreams(Tokenizer.fromJson(tinyByteFallbackJson()), 300));
});

describe.each(TOKENIZERS)('streaming with %s', (name) => {
  describeShared('random texts and ids', () => {
    it('equals decoding at once, never half a character', () => checkStreams(sharedTokenizer(name), 60));
  });
});

describe.each(MODELS)('streaming with %s', (name) => {
  describeShared('random texts and ids', () => {
    it('equals decoding at once, never half a character', async () => checkStreams(await Tokenizer.load(sharedPath('models', name)), 100));
  });
});

describe('IncrementalDetokenizer', () => {
  const byteLevel = Tokenizer.fromJson(tinyByteLevelJson(), { bos_token: '<s>' });
  const byteFallback = Tokenizer.fromJson(tinyByteFallbackJson());
  const byteToken = (byte: number): number => byte + 3;

  it('holds a character back until it is complete', () => {
    const detokenizer = new IncrementalDetokenizer(byteLevel, []);
    const ids = byteLevel.encode('a😀b', { addSpecialTokens: false });
    expect(ids.map((id) => detokenizer.push([id]))).toEqual(['a', '', '', '', '😀', 'b']);
    expect(detokenizer.finish()).toBe('');
  });

  it('gives up bytes that can no longer be completed, and at the end those that were not', () => {
    const detokenizer = new IncrementalDetokenizer(byteFallback, []);
    const bytes = [0xf0, 0x9f, 0x41, 0xe4, 0xbd].map(byteToken);
    expect(bytes.map((id) => detokenizer.push([id]))).toEqual(['', '', '\uFFFD\uFFFDA', '', '']);
    expect(detokenizer.finish()).toBe('\uFFFD\uFFFD');
    const perSequence = new IncrementalDetokenizer(byteLevel, []);
    expect(perSequence.push(byteLevel.encode('😀', { addSpecialTokens: false }).slice(0, 3)) + perSequence.finish()).toBe('\uFFFD');
  });

  it('keeps whole characters of a byte run whose end is broken, as sentencepiece does', () => {
    const ids = [...new TextEncoder().encode('é😀')].map(byteToken);
    expect(byteFallback.decode([...ids, byteToken(0xff)])).toBe('é😀\uFFFD');
  });

  it('keeps a byte order mark', () => {
    const ids = [0xef, 0xbb, 0xbf].map(byteToken);
    expect(byteFallback.decode(ids)).toBe('\uFEFF');
    expect(byteLevel.decode(byteLevel.encode('\uFEFFhel'))).toBe('\uFEFFhel');
  });

  it('keeps the leading blank of a continuation and drops that of a beginning', () => {
    const a = byteFallback.tokenToId('▁a') ?? -1;
    expect(new IncrementalDetokenizer(byteFallback, []).push([a])).toBe('a');
    expect(new IncrementalDetokenizer(byteFallback, [1]).push([a])).toBe('a'); // only <s> before, which is skipped
    expect(new IncrementalDetokenizer(byteFallback, [1, a]).push([a])).toBe(' a');
    expect(new IncrementalDetokenizer(byteFallback, [1], { skipSpecialTokens: false }).push([a])).toBe(' a');
  });

  it('completes a character that the prompt began', () => {
    const ids = byteLevel.encode('hel😀', { addSpecialTokens: false });
    const detokenizer = new IncrementalDetokenizer(byteLevel, [...ids.slice(0, -1), 1]);
    expect(detokenizer.push(ids.slice(-1))).toBe('😀');
  });

  it('skips special tokens inside a character', () => {
    const ids = byteLevel.encode('é', { addSpecialTokens: false });
    expect(byteLevel.decode([ids[0] ?? -1, 1, ids[1] ?? -1])).toBe('é');
    expect(byteLevel.decode([ids[0] ?? -1, 1, ids[1] ?? -1], { skipSpecialTokens: false })).toBe('\uFFFD</s>\uFFFD');
  });

  it('needs constant time per token', () => {
    const time = (count: number): number => {
      const ids = Array.from({ length: count }, (_, i) => byteToken(0x61 + (i % 26)));
      const detokenizer = new IncrementalDetokenizer(byteFallback, ids);
      const start = process.hrtime.bigint();
      for (const id of ids) detokenizer.push([id]);
      return Number(process.hrtime.bigint() - start) / count;
    };
    time(20_000);
    // A quadratic stream would take 50 times as long per token; the bound leaves room for a busy machine.
    expect(Math.min(time(100_000), time(100_000))).toBeLessThan(20 * Math.max(time(2000), 500));
  });
});
