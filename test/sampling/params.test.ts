import { defaultSamplingParams, resolveSamplingParams, type ResolvedSamplingParams, type SamplingContext, type SamplingParams } from '../../lib/sampling/params';
import type { KvasirError } from '../../lib/utils/errors';

const context: SamplingContext = { vocabSize: 100, maxModelLen: 64, promptLen: 10, eosTokenIds: [2], maxLogprobs: 20, defaultSeed: 7 };

function resolve(params: unknown, ctx: Partial<SamplingContext> = {}) {
  return resolveSamplingParams(params as SamplingParams, { ...context, ...ctx });
}

function errorOf(params: unknown, ctx: Partial<SamplingContext> = {}): KvasirError {
  try {
    resolve(params, ctx);
  } catch (error) {
    return error as KvasirError;
  }
  throw new Error(`expected ${JSON.stringify(params)} to be rejected`);
}

describe('resolveSamplingParams', () => {
  test.each([[undefined], [null], [{}], [Object.fromEntries(['n', 'stop', 'seed', 'logprobs', 'logitBias'].map((k) => [k, null]))]])('fills in the defaults of vLLM for %j', (params) => {
    expect(resolve(params)).toEqual({
      n: 1, presencePenalty: 0, frequencyPenalty: 0, repetitionPenalty: 1, temperature: 1, topP: 1, topK: 0, minP: 0, seed: 7, stop: [],
      stopTokenIds: [], eosTokenIds: [2], maxTokens: 16, minTokens: 0, logprobs: null, promptLogprobs: null, detokenize: true,
      skipSpecialTokens: true, spacesBetweenSpecialTokens: true, includeStopStrInOutput: false, outputKind: 'cumulative', logitBias: null,
      allowedTokenIds: null,
    });
  });

  const numbers: [keyof SamplingParams, { good: unknown[]; bad: unknown[] }][] = [
    ['n', { good: [1, 128], bad: [0, -1, 1.5, 129] }],
    ['presencePenalty', { good: [-2, 0, 2], bad: [-2.1, 2.1] }],
    ['frequencyPenalty', { good: [-2, 0.5, 2], bad: [-3, 3] }],
    ['repetitionPenalty', { good: [0.1, 2, 1e6], bad: [0, -1, 1e-50, 1e39] }],
    ['temperature', { good: [0.5, 100], bad: [-0.1, 1e39] }],
    ['topP', { good: [0.1, 1], bad: [0, 1.01, -0.5] }],
    ['topK', { good: [1, 99], bad: [-2, 1.5] }],
    ['minP', { good: [0, 1], bad: [-0.1, 1.1] }],
    ['seed', { good: [0, -5, Number.MAX_SAFE_INTEGER, Number.MIN_SAFE_INTEGER], bad: [0.5, 2 ** 54] }],
    ['maxTokens', { good: [1, 54], bad: [0, -1, 2.5] }],
    ['minTokens', { good: [0, 16], bad: [-1, 0.5] }],
    ['logprobs', { good: [0, 20], bad: [-1, 21, 0.5] }],
    ['promptLogprobs', { good: [0, 20], bad: [-1, 21, 0.5] }],
  ];
  const neverNumbers = [NaN, Infinity, -Infinity, '1', true, [], {}, 1n, () => 1];

  test.each(numbers)('%s: range and type', (field, { good, bad }) => {
    for (const value of good) expect(resolve({ [field]: value })[field as keyof ResolvedSamplingParams]).toBe(value);
    for (const value of [...bad, ...neverNumbers]) {
      const error = errorOf({ [field]: value });
      expect(error.code).toBe('ERR_KVASIR_PARAMS');
      expect(error.message).toMatch(new RegExp(`${field}: expected .*, received `));
    }
  });

  test.each(['ignoreEos', 'detokenize', 'skipSpecialTokens', 'spacesBetweenSpecialTokens', 'includeStopStrInOutput'])('%s is a boolean', (field) => {
    for (const value of [true, false]) expect(() => resolve({ [field]: value })).not.toThrow();
    for (const value of [0, 1, 'true', [], {}, NaN]) expect(errorOf({ [field]: value }).code).toBe('ERR_KVASIR_PARAMS');
  });

  test('outputKind is one of three', () => {
    for (const kind of ['cumulative', 'delta', 'final']) expect(resolve({ outputKind: kind }).outputKind).toBe(kind);
    for (const kind of ['Delta', '', 0, ['delta'], 'toString']) expect(errorOf({ outputKind: kind }).code).toBe('ERR_KVASIR_PARAMS');
  });

  test('stop: a string or strings, none empty, capped in number and size', () => {
    expect(resolve({ stop: 'a' }).stop).toEqual(['a']);
    expect(resolve({ stop: ['a', 'é'] }).stop).toEqual(['a', 'é']);
    expect(resolve({ stop: [] }).stop).toEqual([]);
    const bad = ['', [''], [1], 5, {}, ['a', null], new Array(1), Array(17).fill('x'), 'x'.repeat(1025), 'é'.repeat(513)];
    for (const stop of bad) expect(errorOf({ stop }).code).toBe('ERR_KVASIR_PARAMS');
    expect(errorOf({ stop: ['ok', 3] }).message).toContain('stop[1]');
  });

  test.each(['stopTokenIds', 'allowedTokenIds'] as const)('%s: integers below the width of the logits', (field) => {
    expect(resolve({ [field]: [0, 99, 99] })[field]).toEqual([0, 99]);
    for (const ids of [[100], [-1], [1.5], ['1'], [NaN], 5, 'x', {}, new Array(2), Array(200).fill(1)]) {
      expect(errorOf({ [field]: ids }).code).toBe('ERR_KVASIR_PARAMS');
    }
    expect(errorOf({ [field]: [1, 100] }).message).toContain(`${field}[1]: expected an integer in 0..99, received 100`);
  });

  test('allowedTokenIds must leave something, stopTokenIds need not', () => {
    expect(errorOf({ allowedTokenIds: [] }).code).toBe('ERR_KVASIR_PARAMS');
    expect(resolve({ stopTokenIds: [] }).stopTokenIds).toEqual([]);
  });

  test('logitBias: token ids below the width of the logits, biases in -100..100', () => {
    expect(resolve({ logitBias: { 3: 1.5, 99: -100 } }).logitBias).toEqual([[3, 1.5], [99, -100]]);
    expect(resolve({ logitBias: {} }).logitBias).toBeNull();
    const bad = [{ 100: 1 }, { '-1': 1 }, { '1.5': 1 }, { '01': 1 }, { x: 1 }, { 1: 101 }, { 1: NaN }, { 1: '1' }, { 1: null }, [1], new Map([[1, 1]]), 'x', 3];
    for (const logitBias of bad) expect(errorOf({ logitBias }).code).toBe('ERR_KVASIR_PARAMS');
    const many = Object.fromEntries(Array.from({ length: 1025 }, (_, i) => [i, 1]));
    expect(errorOf({ logitBias: many }, { vocabSize: 5000 }).message).toContain('1024');
  });

  test('an unknown field is rejected with the nearest known one', () => {
    expect(errorOf({ max_tokens: 5 }).message).toContain("did you mean 'maxTokens'?");
    expect(errorOf({ temprature: 1 }).message).toContain("did you mean 'temperature'?");
    expect(errorOf({ xyzzy: 1 }).message).not.toContain('did you mean');
    for (const name of ['max_tokens', 'constructor', 'toString']) expect(errorOf({ [name]: 5 }).code).toBe('ERR_KVASIR_PARAMS');
    expect(errorOf(JSON.parse('{"__proto__": 1}')).code).toBe('ERR_KVASIR_PARAMS');
  });

  test.each(['structuredOutputs', 'badWords', 'thinkingTokenBudget'])('%s is refused as unsupported, unless null', (field) => {
    expect(errorOf({ [field]: {} }).code).toBe('ERR_KVASIR_UNSUPPORTED');
    expect(resolve({ [field]: null }).n).toBe(1);
  });

  test.each([['x'], [5], [[]], [new Uint8Array(2)], [true]])('parameters must be an object, not %j', (params) => {
    expect(errorOf(params).code).toBe('ERR_KVASIR_PARAMS');
  });

  test('a temperature below 1e-5 is greedy, which makes the filters void and n > 1 an error', () => {
    for (const temperature of [0, 9e-6]) {
      expect(resolve({ temperature, topP: 0.5, topK: 5, minP: 0.1 })).toMatchObject({ temperature: 0, topP: 1, topK: 0, minP: 0 });
      expect(errorOf({ temperature, n: 2 }).message).toContain('greedy');
    }
    expect(resolve({ temperature: 1e-5, topK: 5 })).toMatchObject({ temperature: 1e-5, topK: 5 });
  });

  test('topK -1, 0, and anything as wide as the vocabulary are off', () => {
    for (const topK of [-1, 0, 100, 5000]) expect(resolve({ topK }).topK).toBe(0);
  });

  test('maxTokens is cut to the room; null asks for all of it', () => {
    expect(resolve({ maxTokens: 1000 }).maxTokens).toBe(54);
    expect(resolve({ maxTokens: null }).maxTokens).toBe(54);
    expect(resolve({ maxTokens: undefined }).maxTokens).toBe(16);
    expect(resolve({}, { promptLen: 63 }).maxTokens).toBe(1);
  });

  test('minTokens above maxTokens is an error, above the room it is cut', () => {
    expect(errorOf({ minTokens: 5, maxTokens: 4 }).code).toBe('ERR_KVASIR_PARAMS');
    expect(errorOf({ minTokens: 17 }).code).toBe('ERR_KVASIR_PARAMS');
    expect(resolve({ minTokens: 60, maxTokens: null })).toMatchObject({ minTokens: 54, maxTokens: 54 });
  });

  test('the whole vocabulary as logprobs only where the engine allows it', () => {
    expect(resolve({ logprobs: -1, promptLogprobs: 100 }, { maxLogprobs: -1 })).toMatchObject({ logprobs: 100, promptLogprobs: 100 });
    expect(errorOf({ logprobs: 101 }, { maxLogprobs: -1 }).code).toBe('ERR_KVASIR_PARAMS');
    expect(resolve({ logprobs: 20 }, { vocabSize: 10 }).logprobs).toBe(10);
  });

  test('stop strings without text are an error', () => {
    expect(errorOf({ stop: 'x', detokenize: false }).code).toBe('ERR_KVASIR_PARAMS');
  });

  test('ignoreEos drops the end-of-sequence ids of the model', () => {
    expect(resolve({ ignoreEos: true }).eosTokenIds).toEqual([]);
  });

  test('each field is read once, so a getter cannot show two values', () => {
    let reads = 0;
    const params = { get topP() { return ++reads === 1 ? 0.5 : 99; } };
    expect(resolve(params).topP).toBe(0.5);
  });
});

test('defaultSamplingParams keeps the sampling parameters of generation_config.json', () => {
  expect(defaultSamplingParams({ temperature: 0.5, topK: 20, somethingElse: 1 })).toEqual({ temperature: 0.5, topK: 20 });
});
