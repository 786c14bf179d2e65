import type { EngineCoreOutput, PositionLogprobs } from '../../lib/core/types';
import { SequenceState } from '../../lib/engine/sequence-state';
import { resolveSamplingParams, type SamplingParams } from '../../lib/sampling/params';
import { IncrementalDetokenizer } from '../../lib/tokenizer/detokenizer';
import { byteTokenizer, bytesOf, EOS, VOCAB_SIZE } from './fixtures/byte-tokenizer';

const tokenizer = byteTokenizer();

function sequence(params: SamplingParams = {}): SequenceState {
  const resolved = resolveSamplingParams(params, { vocabSize: VOCAB_SIZE, maxModelLen: 500, promptLen: 1, eosTokenIds: [EOS], maxLogprobs: 5, defaultSeed: 0 });
  return new SequenceState(0, resolved, new IncrementalDetokenizer(tokenizer, [65], resolved), (id) => tokenizer.tokenText(id));
}

function output(newTokenIds: readonly number[], more: Partial<EngineCoreOutput> = {}): EngineCoreOutput {
  return { requestId: 'x#0', newTokenIds, newLogprobs: null, newPromptLogprobs: null, finishReason: null, stopReason: null, numCachedTokens: 0, ...more };
}

/** Feeds one token a step as the engine core would, and collects what a stream of deltas shows. */
function run(state: SequenceState, tokens: readonly number[], end: 'length' | 'stop'): { shown: string[]; stopped: boolean } {
  const shown: string[] = [];
  for (const [i, token] of tokens.entries()) {
    const stopped = state.apply(output([token], i === tokens.length - 1 ? { finishReason: end } : {}));
    shown.push(state.takeOutput(true).text);
    if (stopped) return { shown, stopped };
  }
  return { shown, stopped: false };
}

describe('SequenceState: stop strings', () => {
  test('a stop string that straddles tokens is cut off, and no part of it is ever shown', () => {
    const state = sequence({ stop: ['STOP'] });
    const { shown, stopped } = run(state, bytesOf('one STOP two'), 'length');
    expect(stopped).toBe(true);
    expect(shown).toEqual(['o', 'n', 'e', ' ', '', '', '', '']);
    expect(state.takeOutput(false)).toMatchObject({ text: 'one ', finishReason: 'stop', stopReason: 'STOP' });
    expect(state.takeOutput(false).tokenIds).toEqual(bytesOf('one STOP'));
  });

  test('text that only began like a stop string is shown once that is clear', () => {
    const { shown } = run(sequence({ stop: ['STOP'] }), bytesOf('STOX'), 'length');
    expect(shown).toEqual(['', '', '', 'STOX']);
  });

  test('what is held back is shown when the sequence ends otherwise', () => {
    const { shown } = run(sequence({ stop: ['STOP'] }), bytesOf('a STO'), 'length');
    expect(shown.join('')).toBe('a STO');
  });

  test('includeStopStrInOutput keeps the stop string', () => {
    const state = sequence({ stop: ['ne'], includeStopStrInOutput: true });
    const { shown } = run(state, bytesOf('one two'), 'length');
    expect(shown.join('')).toBe('one');
    expect(state.takeOutput(false)).toMatchObject({ text: 'one', stopReason: 'ne' });
  });

  test('text after a stop string in the same token is dropped', () => {
    const wide = { push: () => 'ab|cd', finish: () => '' } as unknown as IncrementalDetokenizer;
    for (const [includeStopStrInOutput, text] of [[false, 'ab'], [true, 'ab|']] as const) {
      const params = resolveSamplingParams({ stop: '|', includeStopStrInOutput }, { vocabSize: 9, maxModelLen: 9, promptLen: 1, eosTokenIds: [], maxLogprobs: 0, defaultSeed: 0 });
      const state = new SequenceState(0, params, wide, () => null);
      expect(state.apply(output([1]))).toBe(true);
      expect(state.takeOutput(false).text).toBe(text);
    }
  });

  test('stop strings do not count before minTokens tokens', () => {
    const state = sequence({ stop: ['a'], minTokens: 3 });
    const { shown, stopped } = run(state, bytesOf('aaaaaa'), 'length');
    expect(stopped).toBe(true);
    expect(shown.join('')).toBe('aaa');
    expect(state.numTokens).toBe(4);
  });

  test('a stop string in the last token wins over the length', () => {
    const state = sequence({ stop: ['end'] });
    expect(run(state, bytesOf('the end'), 'length').stopped).toBe(false);
    expect(state.takeOutput(false)).toMatchObject({ text: 'the ', finishReason: 'stop', stopReason: 'end' });
  });
});

describe('SequenceState: text', () => {
  test.each(['naïve 😀 日本語', '👩‍👩‍👧 e\u0301'])('a stream of bytes of %s never shows half a character', (text) => {
    const { shown } = run(sequence(), bytesOf(text), 'length');
    expect(shown.join('')).toBe(text);
    for (const piece of shown) expect(piece).not.toMatch(/\uFFFD|\p{Surrogate}/u);
  });

  test('an unfinished character at the end becomes U+FFFD', () => {
    const { shown } = run(sequence(), bytesOf('ab😀').slice(0, 4), 'length');
    expect(shown.join('')).toBe('ab\uFFFD');
  });

  test('the token that ends the sequence adds no text, with includeStopStrInOutput it does', () => {
    for (const [includeStopStrInOutput, text] of [[false, 'ab'], [true, 'abc']] as const) {
      const state = sequence({ includeStopStrInOutput });
      run(state, bytesOf('abc'), 'stop');
      expect(state.takeOutput(false)).toMatchObject({ text, finishReason: 'stop', stopReason: null });
    }
  });

  test('special tokens are left out, or shown on request', () => {
    for (const [skipSpecialTokens, text] of [[true, 'ab'], [false, 'a<eos>b']] as const) {
      expect(run(sequence({ skipSpecialTokens, spacesBetweenSpecialTokens: false }), [97, EOS, 98], 'length').shown.join('')).toBe(text);
    }
  });
});

describe('SequenceState: logprobs', () => {
  const position: PositionLogprobs = { tokenIds: [97, 98, 97], logprobs: [-1, -0.5, -1], sampledRank: 2 };

  test('the sampled token comes first and only once; ranks are places', () => {
    const state = sequence({ logprobs: 2 });
    state.apply(output([97], { newLogprobs: [position] }));
    expect(state.takeOutput(false).logprobs).toEqual([
      [{ tokenId: 97, logprob: -1, rank: 2, decodedToken: 'a' }, { tokenId: 98, logprob: -0.5, rank: 1, decodedToken: 'b' }],
    ]);
  });

  test('cumulativeLogprob is the sum over sampled tokens, also in deltas; null without logprobs', () => {
    const state = sequence({ logprobs: 2 });
    for (const expected of [-1, -2]) {
      state.apply(output([97], { newLogprobs: [position] }));
      const delta = state.takeOutput(true);
      expect(delta.cumulativeLogprob).toBe(expected);
      expect(delta.logprobs).toHaveLength(1);
    }
    const plain = sequence();
    plain.apply(output([97]));
    expect(plain.takeOutput(false)).toMatchObject({ cumulativeLogprob: null, logprobs: null });
  });

  test('an error of the worker ends the sequence with its message', () => {
    const state = sequence();
    state.apply(output([], { finishReason: 'error', error: 'NaN in the logits' }));
    expect(state.takeOutput(false)).toMatchObject({ finishReason: 'error', error: { code: 'ERR_KVASIR_NAN_LOGITS', message: 'NaN in the logits' } });
  });
});
