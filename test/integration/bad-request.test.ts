import type { ErrorCode, LLM, PromptInput, RequestOutput, SamplingParams } from '../../lib/index';
import { expectCode } from '../fixtures/expect-error';
import { blocksFor, expectNothingLeft, mixedWork, open, runTogether, TALES, type Work } from './workload';

const VOCAB = 2048;
const MAX_LEN = 1024;
const OK: PromptInput = { promptTokenIds: [5, 6, 7] };

type BadPrompt = readonly [name: string, prompt: unknown, code: ErrorCode, message: RegExp];
type BadParams = readonly [params: unknown, code: ErrorCode, message: RegExp];

const ids = (length: number): number[] => new Array<number>(length).fill(9);

const PROMPTS: readonly BadPrompt[] = [
  ['no token', { promptTokenIds: [] }, 'ERR_KVASIR_PROMPT', /empty/],
  ['an empty typed array', { promptTokenIds: new Uint32Array() }, 'ERR_KVASIR_PROMPT', /empty/],
  ['a token too many', { promptTokenIds: ids(MAX_LEN) }, 'ERR_KVASIR_PROMPT_TOO_LONG', /1023 tokens.*1024/],
  ['a million tokens', { promptTokenIds: new Int32Array(1e6) }, 'ERR_KVASIR_PROMPT_TOO_LONG', /1000000/],
  ['a text that is too long', 'story '.repeat(5000), 'ERR_KVASIR_PROMPT_TOO_LONG', /1023 tokens/],
  ['token -1', { promptTokenIds: [5, -1] }, 'ERR_KVASIR_PROMPT', /promptTokenIds\[1\].*0\.\.2047.*-1/],
  ['the token after the last', { promptTokenIds: [VOCAB] }, 'ERR_KVASIR_PROMPT', /0\.\.2047.*2048/],
  ['token 1.5', { promptTokenIds: [1.5] }, 'ERR_KVASIR_PROMPT', /1\.5/],
  ['token 2^31', { promptTokenIds: [2 ** 31] }, 'ERR_KVASIR_PROMPT', /2147483648/],
  ['token 2^32 + 5, which is 5 in 32 bits', { promptTokenIds: [2 ** 32 + 5] }, 'ERR_KVASIR_PROMPT', /4294967301/],
  ['token NaN', { promptTokenIds: [NaN] }, 'ERR_KVASIR_PROMPT', /NaN/],
  ['token Infinity', { promptTokenIds: new Float64Array([Infinity]) }, 'ERR_KVASIR_PROMPT', /Infinity/],
  ['a token as text', { promptTokenIds: ['5'] }, 'ERR_KVASIR_PROMPT', /"?5/],
  ['a hole in the list', { promptTokenIds: [5, , 6] }, 'ERR_KVASIR_PROMPT', /undefined/], // eslint-disable-line no-sparse-arrays
  ['a number', 5, 'ERR_KVASIR_PROMPT', /number|5/],
  ['null', null, 'ERR_KVASIR_PROMPT', /null/],
  ['an object with neither text nor tokens', {}, 'ERR_KVASIR_PROMPT', /neither/],
  ['a list as text', { prompt: ['a'] }, 'ERR_KVASIR_PROMPT', /prompt/],
  ['a salt that is no text', { promptTokenIds: [5], cacheSalt: 5 }, 'ERR_KVASIR_PROMPT', /cacheSalt/],
];

const NUMBERS = ['temperature', 'topP', 'minP', 'topK', 'maxTokens', 'minTokens', 'n', 'seed', 'logprobs', 'promptLogprobs', 'repetitionPenalty', 'presencePenalty', 'frequencyPenalty'] as const;
const POSITIVE = ['temperature', 'topP', 'minP', 'maxTokens', 'minTokens', 'n', 'logprobs', 'promptLogprobs', 'repetitionPenalty'] as const;

const PARAMS: readonly BadParams[] = [
  ...NUMBERS.flatMap((field) => [NaN, Infinity, -Infinity, '1', true].map((value): BadParams => [{ [field]: value }, 'ERR_KVASIR_PARAMS', new RegExp(field)])),
  ...POSITIVE.map((field): BadParams => [{ [field]: -1 }, 'ERR_KVASIR_PARAMS', new RegExp(field)]),
  [{ topP: 0 }, 'ERR_KVASIR_PARAMS', /topP/],
  [{ topP: 1.01 }, 'ERR_KVASIR_PARAMS', /topP/],
  [{ topK: 1.5 }, 'ERR_KVASIR_PARAMS', /topK/],
  [{ n: 2, temperature: 0 }, 'ERR_KVASIR_PARAMS', /n: expected 1/],
  [{ n: 1e9 }, 'ERR_KVASIR_PARAMS', /n/],
  [{ maxTokens: 0 }, 'ERR_KVASIR_PARAMS', /maxTokens/],
  [{ minTokens: 20, maxTokens: 10 }, 'ERR_KVASIR_PARAMS', /minTokens/],
  [{ logprobs: 21 }, 'ERR_KVASIR_PARAMS', /logprobs/],
  [{ logprobs: -1 }, 'ERR_KVASIR_PARAMS', /logprobs/],
  [{ temprature: 1 }, 'ERR_KVASIR_PARAMS', /temprature.*temperature/],
  [{ __proto__: null, constructor: 1 }, 'ERR_KVASIR_PARAMS', /constructor/],
  [{ stop: [''] }, 'ERR_KVASIR_PARAMS', /stop/],
  [{ stop: 5 }, 'ERR_KVASIR_PARAMS', /stop/],
  [{ stopTokenIds: [VOCAB] }, 'ERR_KVASIR_PARAMS', /stopTokenIds/],
  [{ logitBias: { [VOCAB]: 1 } }, 'ERR_KVASIR_PARAMS', /logitBias.*2048/],
  [{ logitBias: { '-1': 1 } }, 'ERR_KVASIR_PARAMS', /logitBias/],
  [{ logitBias: { 5: NaN } }, 'ERR_KVASIR_PARAMS', /logitBias/],
  [{ logitBias: { 5: 101 } }, 'ERR_KVASIR_PARAMS', /logitBias/],
  [{ allowedTokenIds: [] }, 'ERR_KVASIR_PARAMS', /allowedTokenIds/],
  [{ allowedTokenIds: [1.5] }, 'ERR_KVASIR_PARAMS', /allowedTokenIds/],
  [{ structuredOutputs: {} }, 'ERR_KVASIR_UNSUPPORTED', /structuredOutputs/],
  ['greedy', 'ERR_KVASIR_PARAMS', /object/],
  [[{}, {}, {}], 'ERR_KVASIR_PARAMS', /array of 1/],
];

describe('a request that cannot run fails with one clear error, and the next one is as before', () => {
  let llm: LLM;
  let before: RequestOutput[];
  const ask = () => llm.generate(['Once upon a time', OK], [{ temperature: 0, maxTokens: 4 }, { temperature: 0.9, seed: 3, maxTokens: 4 }]);

  beforeAll(async () => {
    llm = await open(TALES, { dtype: 'float32', maxNumSeqs: 8 });
    before = await ask();
  });
  afterAll(async () => {
    await llm.close();
    expectNothingLeft();
  });

  async function expectUnharmed(): Promise<void> {
    expect(await llm.stats()).toMatchObject({ numRunning: 0, numWaiting: 0, kvCacheUsage: 0 });
    expect((await ask()).map((o) => o.outputs)).toEqual(before.map((o) => o.outputs));
  }

  test.each(PROMPTS)('prompt: %s', async (_name, prompt, code, message) => {
    const bad = prompt as PromptInput;
    expect((await expectCode(code, () => llm.generate([bad]))).message).toMatch(message);
    const error = await expectCode(code, () => llm.generate([OK, bad, OK]));
    expect(error.message).toMatch(/^prompts\[1\]: /);
    expect((await expectCode(code, () => llm.stream(bad).next())).message).toMatch(message);
    await expectUnharmed();
  });

  test.each(PARAMS)('parameters: %p: %s', async (params, code, message) => {
    const error = await expectCode(code, () => llm.generate([OK], params as SamplingParams));
    expect(error.message).toMatch(message);
    expect(error.message.length).toBeLessThan(300);
    await expectUnharmed();
  });

  test('(an empty text is not empty: it is the beginning of a sequence, where the tokenizer adds one)', async () => {
    const [output] = await llm.generate('', { temperature: 0, maxTokens: 4 });
    expect(output).toMatchObject({ promptTokenIds: [0], outputs: [{ finishReason: 'length' }] });
  });

  test('a priority that is no integer, a request id that is no text', async () => {
    await expectCode('ERR_KVASIR_PARAMS', () => llm.generate(OK, null, { priority: 1.5 }));
    await expectCode('ERR_KVASIR_PARAMS', () => llm.stream(OK, null, { requestId: 5 as unknown as string }).next());
    await expectUnharmed();
  });

  test('bad requests in between change nothing about the good ones', async () => {
    const good = llm.generate(['Once upon a time', OK], [{ temperature: 0, maxTokens: 4 }, { temperature: 0.9, seed: 3, maxTokens: 4 }]);
    const bad = await Promise.allSettled(PROMPTS.map(([, prompt]) => llm.generate(prompt as PromptInput)));
    expect(bad.filter((result) => result.status !== 'rejected')).toEqual([]);
    expect((await good).map((o) => o.outputs)).toEqual(before.map((o) => o.outputs));
  });
});

describe('a prompt at the limit', () => {
  test('the longest prompt gives one token; the longest that the KV pool holds runs', async () => {
    const llm = await open(TALES, { dtype: 'float32', numKvBlocks: 9, maxNumSeqs: 4 });
    const [whole] = await llm.generate({ promptTokenIds: ids(8 * 16 - 1) }, { temperature: 0, maxTokens: null, ignoreEos: true });
    // The pool ends it: its last token needs no KV.
    expect(whole!.outputs[0]).toMatchObject({ finishReason: 'length' });
    expect(whole!.outputs[0]!.tokenIds).toHaveLength(2);
    const error = await expectCode('ERR_KVASIR_PROMPT_TOO_LONG', () => llm.generate({ promptTokenIds: ids(8 * 16) }));
    expect(error.message).toMatch(/127 tokens.*KV cache.*128/);
    await llm.close();

    const long = await open(TALES, { dtype: 'float32', maxNumSeqs: 1 });
    const [last] = await long.generate({ promptTokenIds: ids(MAX_LEN - 1) }, { temperature: 0, maxTokens: 50, ignoreEos: true });
    expect(last!.outputs[0]!.tokenIds).toHaveLength(1);
    expect(last!.outputs[0]!.finishReason).toBe('length');
    await long.close();
    expectNothingLeft();
  });

  test('requests that each need the whole pool run one after the other', async () => {
    const llm = await open(TALES, { dtype: 'float32', numKvBlocks: 5, maxNumSeqs: 8 });
    const work: Work[] = mixedWork(6, VOCAB).map(({ params }, i) => ({ promptTokenIds: ids(40 + i), params: { ...params, n: 1, maxTokens: 64 - 40 - i } }));
    expect(blocksFor(work)).toBe(6 * 4);
    const outputs = await runTogether(llm, work);
    expect(outputs.map((o) => o.outputs[0]!.finishReason).filter((reason) => reason === 'error' || reason === 'abort')).toEqual([]);
    expect(await llm.stats()).toMatchObject({ numRunning: 0, numWaiting: 0, kvCacheUsage: 0 });
    await llm.close();
    expectNothingLeft();
  });
});
