import { Tokenizer } from '../../lib/tokenizer/tokenizer';

function wordTokenizer(decoder: unknown, tokens: string[]): Tokenizer {
  return Tokenizer.fromJson({
    added_tokens: [
      { id: 0, content: '[A]', special: true },
      { id: 1, content: '[B]', special: true },
    ],
    pre_tokenizer: { type: 'WhitespaceSplit' },
    decoder,
    model: { type: 'WordPiece', unk_token: '[A]', continuing_subword_prefix: '##', max_input_chars_per_word: 100, vocab: Object.fromEntries(['[A]', '[B]', ...tokens].map((token, id) => [token, id])) },
  });
}

const all = { skipSpecialTokens: false };

describe('decoders', () => {
  it('joins word pieces', () => {
    const tokenizer = wordTokenizer({ type: 'WordPiece', prefix: '##', cleanup: false }, ['un', '##like', '##ly', 'yes']);
    expect(tokenizer.decode([2, 3, 4, 5])).toBe('unlikely yes');
  });

  it('joins with blanks where there is no decoder', () => {
    expect(wordTokenizer(null, ['x', 'y']).decode([2, 3, 2])).toBe('x y x');
  });

  it('honours spacesBetweenSpecialTokens where the decoder puts blanks', () => {
    const tokenizer = wordTokenizer(null, ['x']);
    expect(tokenizer.decode([2, 0, 1, 2, 0], all)).toBe('x [A] [B] x [A]');
    expect(tokenizer.decode([2, 0, 1, 2, 0], { ...all, spacesBetweenSpecialTokens: false })).toBe('x [A][B] x [A]');
    expect(tokenizer.decode([2, 0, 1, 2, 0], { skipSpecialTokens: true, spacesBetweenSpecialTokens: false })).toBe('x x');
  });

  it('ends words at a suffix', () => {
    expect(wordTokenizer({ type: 'BPEDecoder', suffix: '</w>' }, ['ab', 'c</w>', 'd</w>']).decode([2, 3, 4])).toBe('abc d');
  });

  it('drops what Metaspace put in front of the first token only', () => {
    const decoder = { type: 'Metaspace', replacement: '▁', prepend_scheme: 'always' };
    expect(wordTokenizer(decoder, ['▁a', '▁b']).decode([2, 3, 2])).toBe('a b a');
    expect(wordTokenizer({ ...decoder, prepend_scheme: 'never' }, ['▁a', '▁b']).decode([2, 3])).toBe(' a b');
  });

  it.each([
    [{ type: 'CTC' }],
    [{}],
    [{ type: 'Replace', pattern: { Regex: '(a+)+$' }, content: '' }],
    [{ type: 'Strip', content: ' ', start: 0, stop: 1 }],
    [{ type: 'Sequence', decoders: 'ByteLevel' }],
    [{ type: 'Sequence', decoders: [{ type: 'ByteLevel' }, { type: 'ByteFallback' }] }],
  ])('refuses %j', (decoder) => {
    expect(() => wordTokenizer(decoder, ['x'])).toThrow(expect.objectContaining({ code: 'ERR_KVASIR_TOKENIZER' }) as Error);
  });
});
