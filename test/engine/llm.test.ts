import { SimulatedWorker } from '../core/fixtures/simulated-worker';
import { LLM, type RequestOutput } from '../../lib/index';
import type { PromptInput } from '../../lib/engine/outputs';
import { byteTokenizer, bytesOf, EOS, VOCAB_SIZE } from './fixtures/byte-tokenizer';
import { testConfig, testLLM } from './fixtures/config';
import { ScriptedExecutor, type Script } from './fixtures/scripted-executor';

/** Says the prompt once more. */
const echo: Script = (prompt) => prompt;
const say = (text: string): Script => () => bytesOf(text);

let open: LLM[] = [];
async function start(executor: ScriptedExecutor | SimulatedWorker, config = testConfig()): Promise<LLM> {
  const llm = await testLLM(executor, config);
  open.push(llm);
  return llm;
}
afterEach(async () => {
  await Promise.all(open.map((llm) => llm.close()));
  open = [];
});

const long = { maxTokens: 400 };

describe('LLM.generate', () => {
  test('outputs are in the order of the prompts', async () => {
    const llm = await start(new ScriptedExecutor(echo));
    const prompts = ['a long prompt, which takes many steps', 'b', 'hello', { prompt: 'text' }, { promptTokenIds: bytesOf('ids') }];
    const outputs = await llm.generate(prompts, long);
    expect(outputs.map((o) => o.outputs[0]?.text)).toEqual([prompts[0], 'b', 'hello', 'text', 'ids']);
    expect(outputs.map((o) => o.prompt)).toEqual([prompts[0], 'b', 'hello', 'text', null]);
    expect(outputs[1]).toMatchObject({ promptTokenIds: [98], finished: true, promptLogprobs: null, outputs: [{ index: 0, tokenIds: [98, EOS], finishReason: 'stop', stopReason: null }] });
    const { arrivalTime, firstTokenTime, finishedTime } = outputs[1]!.metrics;
    expect(firstTokenTime).toBeGreaterThanOrEqual(arrivalTime);
    expect(finishedTime).toBeGreaterThanOrEqual(firstTokenTime!);
    expect(Math.abs(Date.now() - arrivalTime)).toBeLessThan(60_000);
  });

  test('one prompt, none, parameters per prompt', async () => {
    const llm = await start(new ScriptedExecutor(echo));
    expect((await llm.generate('xyz', { maxTokens: 2 }))[0]?.outputs[0]).toMatchObject({ text: 'xy', finishReason: 'length' });
    expect(await llm.generate([])).toEqual([]);
    const outputs = await llm.generate(['abc', 'def'], [{ maxTokens: 1 }, { maxTokens: 2 }]);
    expect(outputs.map((o) => o.outputs[0]?.text)).toEqual(['a', 'de']);
    await expect(llm.generate(['a', 'b'], [{}])).rejects.toMatchObject({ code: 'ERR_KVASIR_PARAMS' });
  });

  test('without parameters those of generation_config.json apply; with parameters they do not', async () => {
    const executor = new ScriptedExecutor(echo);
    const llm = await start(executor);
    expect(llm.getDefaultSamplingParams()).toEqual({ temperature: 0.5, topK: 7 });
    await llm.generate('a');
    await llm.generate('b', {});
    expect(executor.started.map((r) => [r.samplingParams.temperature, r.samplingParams.topK])).toEqual([[0.5, 7], [1, 0]]);
  });

  test('n sequences per prompt: ordered, each with its own seed', async () => {
    const executor = new ScriptedExecutor((prompt, { samplingParams }) => bytesOf(`seed ${samplingParams.seed}`));
    const llm = await start(executor);
    const [output] = await llm.generate('p', { n: 3, seed: 40, ...long, promptLogprobs: 0 });
    expect(output?.outputs.map((o) => [o.index, o.text])).toEqual([[0, 'seed 40'], [1, 'seed 41'], [2, 'seed 42']]);
    expect(executor.started.map((r) => [r.samplingParams.n, r.samplingParams.promptLogprobs])).toEqual([[1, 0], [1, null], [1, null]]);
    await llm.generate('p', { n: 2, seed: Number.MAX_SAFE_INTEGER });
    const seeds = executor.started.slice(3).map((r) => r.samplingParams.seed);
    expect(new Set(seeds).size).toBe(2);
    expect(seeds.every(Number.isSafeInteger)).toBe(true);
  });

  test('unseeded requests get different seeds, the same ones in each run of the program', async () => {
    const seeds: number[][] = [];
    for (let run = 0; run < 2; run++) {
      const executor = new ScriptedExecutor(echo);
      const llm = await start(executor);
      await llm.generate(['a', 'b', 'c']);
      seeds.push(executor.started.map((r) => r.samplingParams.seed));
    }
    expect(new Set(seeds[0]).size).toBe(3);
    expect(seeds[1]).toEqual(seeds[0]);
  });

  test('logprobs and prompt logprobs', async () => {
    const llm = await start(new ScriptedExecutor(echo));
    const [output] = await llm.generate('abc', { logprobs: 2, promptLogprobs: 0, ...long });
    expect(output?.promptLogprobs).toEqual([null, ...['b', 'c'].map((c) => [{ tokenId: c.charCodeAt(0), logprob: -1, rank: 1, decodedToken: c }])]);
    expect(output?.outputs[0]?.cumulativeLogprob).toBe(-2);
    expect(output?.outputs[0]?.logprobs?.[0]?.map((e) => [e.decodedToken, e.rank])).toEqual([['a', 2], ['b', 1]]);
  });

  test('stop strings end the request in the core too', async () => {
    const executor = new ScriptedExecutor(say('one two three four five six'));
    const llm = await start(executor);
    const [output] = await llm.generate('p', { stop: ['three'], ...long });
    expect(output?.outputs[0]).toMatchObject({ text: 'one two ', finishReason: 'stop', stopReason: 'three' });
    const steps = executor.numSteps;
    await llm.generate('q', { maxTokens: 1 });
    expect(executor.numSteps).toBeLessThan(steps + 4);
    expect(await llm.stats()).toMatchObject({ numRunning: 0, numWaiting: 0 });
  });

  test('progress counts finished requests and their tokens', async () => {
    const llm = await start(new ScriptedExecutor(echo));
    const seen: number[][] = [];
    await llm.generate(['a', 'bc'], { maxTokens: 2 }, { onProgress: (...args) => seen.push(args) });
    expect(seen).toEqual([[1, 2, 2], [2, 2, 4]]);
  });

  test('1000 requests at once, each as if it were alone, also when the KV pool is too small for them', async () => {
    const config = testConfig(64);
    const worker = () => new SimulatedWorker({ numBlocks: 33, blockSize: 16, vocabSize: VOCAB_SIZE });
    const llm = await start(worker(), config);
    const prompts: PromptInput[] = Array.from({ length: 1000 }, (_, i) => ({ promptTokenIds: Array.from({ length: 1 + (i % 23) }, (_, j) => (i * 7 + j) % 256) }));
    const params = { maxTokens: 20, ignoreEos: true };
    const outputs = await llm.generate(prompts, params);
    expect(outputs.map((o) => o.promptTokenIds)).toEqual(prompts.map((p) => (p as { promptTokenIds: number[] }).promptTokenIds));
    expect((await llm.stats()).numPreemptions).toBeGreaterThan(0);
    for (const i of [0, 333, 999]) {
      const [alone] = await (await start(worker(), config)).generate(prompts[i]!, params);
      expect(outputs[i]?.outputs[0]?.tokenIds).toEqual(alone?.outputs[0]?.tokenIds);
    }
  });

  test('numCachedTokens tells what the prefix cache had; resetPrefixCache empties it', async () => {
    const llm = await start(new ScriptedExecutor(echo));
    const prompt = 'x'.repeat(40);
    const cached = async (input: PromptInput) => (await llm.generate(input, { maxTokens: 1 }))[0]?.numCachedTokens;
    expect([await cached(prompt), await cached(prompt), await cached({ prompt, cacheSalt: 's' })]).toEqual([0, 32, 0]);
    expect(await llm.resetPrefixCache()).toBe(true);
    expect(await cached(prompt)).toBe(0);
  });
});

describe('LLM: bad input', () => {
  const bad: [string, unknown, string][] = [
    ['empty text', '', 'ERR_KVASIR_PROMPT'],
    ['no ids', { promptTokenIds: [] }, 'ERR_KVASIR_PROMPT'],
    ['id past the logits', { promptTokenIds: [1, VOCAB_SIZE] }, 'ERR_KVASIR_PROMPT'],
    ['negative id', { promptTokenIds: [-1] }, 'ERR_KVASIR_PROMPT'],
    ['fraction', { promptTokenIds: [1.5] }, 'ERR_KVASIR_PROMPT'],
    ['NaN', { promptTokenIds: [NaN] }, 'ERR_KVASIR_PROMPT'],
    ['hole', { promptTokenIds: new Array(3) }, 'ERR_KVASIR_PROMPT'],
    ['bigint ids', { promptTokenIds: new BigInt64Array(2) }, 'ERR_KVASIR_PROMPT'],
    ['DataView', { promptTokenIds: new DataView(new ArrayBuffer(4)) }, 'ERR_KVASIR_PROMPT'],
    ['text as ids', { promptTokenIds: 'abc' }, 'ERR_KVASIR_PROMPT'],
    ['number', 5, 'ERR_KVASIR_PROMPT'],
    ['null', null, 'ERR_KVASIR_PROMPT'],
    ['undefined', undefined, 'ERR_KVASIR_PROMPT'],
    ['empty object', {}, 'ERR_KVASIR_PROMPT'],
    ['prompt of another type', { prompt: 5 }, 'ERR_KVASIR_PROMPT'],
    ['cacheSalt of another type', { prompt: 'a', cacheSalt: 5 }, 'ERR_KVASIR_PROMPT'],
    ['too long', 'x'.repeat(512), 'ERR_KVASIR_PROMPT_TOO_LONG'],
    ['far too long', { promptTokenIds: { length: 2 ** 31 } }, 'ERR_KVASIR_PROMPT'],
    ['far too long array', { promptTokenIds: new Uint8Array(1e6) }, 'ERR_KVASIR_PROMPT_TOO_LONG'],
  ];

  test.each(bad)('%s', async (_name, prompt, code) => {
    const executor = new ScriptedExecutor(echo);
    const llm = await start(executor);
    await expect(llm.generate([prompt as PromptInput])).rejects.toMatchObject({ code });
    await expect(llm.stream(prompt as PromptInput).next()).rejects.toMatchObject({ code });
    expect((await llm.generate('ok', { maxTokens: 1 }))[0]?.outputs[0]?.text).toBe('o');
    expect(executor.started).toHaveLength(1);
  });

  test('the sentence of a too long prompt has both numbers', async () => {
    const llm = await start(new ScriptedExecutor(echo));
    await expect(llm.generate('x'.repeat(600))).rejects.toThrow(/511 tokens.*received 600/);
  });

  test('a prompt longer than the KV cache is refused, one that fits in runs to the end', async () => {
    const llm = await start(new ScriptedExecutor(echo, 5));
    await expect(llm.generate('x'.repeat(64))).rejects.toMatchObject({ code: 'ERR_KVASIR_PROMPT_TOO_LONG' });
    const [output] = await llm.generate('x'.repeat(63), { maxTokens: null });
    expect(output?.outputs[0]?.finishReason).toBe('length');
  });

  test('one bad prompt or parameter rejects the whole call, naming its index, before anything runs', async () => {
    const executor = new ScriptedExecutor(echo);
    const llm = await start(executor);
    await expect(llm.generate(['a', 'b', ''])).rejects.toThrow(/^prompts\[2\]: /);
    await expect(llm.generate(['a', 'b'], [{}, { topP: 7 }])).rejects.toThrow(/^prompts\[1\]: .*topP/);
    await expect(llm.generate('a', { nope: 1 } as object)).rejects.toMatchObject({ code: 'ERR_KVASIR_PARAMS' });
    await expect(llm.generate('a', {}, { priority: 0.5 })).rejects.toMatchObject({ code: 'ERR_KVASIR_PARAMS' });
    expect(executor.numSteps).toBe(0);
  });

  test('typed arrays are token ids', async () => {
    const llm = await start(new ScriptedExecutor(echo));
    for (const promptTokenIds of [Int32Array.of(97, 98), Uint8Array.of(97, 98)]) {
      const [output] = await llm.generate({ promptTokenIds, prompt: 'ab' });
      expect(output).toMatchObject({ prompt: 'ab', promptTokenIds: [97, 98], outputs: [{ text: 'ab' }] });
    }
  });

  test('an engine without tokenizer takes and gives token ids, and says what it cannot do', async () => {
    const llm = await LLM.create({ model: '/none' }, { config: testConfig(), tokenizer: null, createExecutor: () => new ScriptedExecutor(echo) });
    open.push(llm);
    expect((await llm.generate({ promptTokenIds: [1, 2] }, { logprobs: 1 }))[0]?.outputs[0]).toMatchObject({ text: '', tokenIds: [1, 2, EOS] });
    await expect(llm.generate('text')).rejects.toMatchObject({ code: 'ERR_KVASIR_TOKENIZER' });
    await expect(llm.generate({ promptTokenIds: [1] }, { stop: 'x' })).rejects.toMatchObject({ code: 'ERR_KVASIR_TOKENIZER' });
    await expect(llm.chat([{ role: 'user', content: 'x' }])).rejects.toMatchObject({ code: 'ERR_KVASIR_TOKENIZER' });
  });
});

async function collect(stream: AsyncIterable<RequestOutput>): Promise<RequestOutput[]> {
  const outputs: RequestOutput[] = [];
  for await (const output of stream) outputs.push(output);
  return outputs;
}

describe('LLM.stream', () => {
  const text = 'naïve 😀 text, STOP';

  test('the deltas of a stream add up to the text of generate', async () => {
    const llm = await start(new ScriptedExecutor(say(text)));
    for (const stop of [[], ['STOP'], ['text,']]) {
      const params = { ...long, stop, logprobs: 1 };
      const [whole] = await llm.generate('p', params);
      const deltas = (await collect(llm.stream('p', { ...params, outputKind: 'delta' }))).map((o) => o.outputs[0]!);
      expect(deltas.map((d) => d.text).join('')).toBe(whole?.outputs[0]?.text);
      expect(deltas.flatMap((d) => d.tokenIds)).toEqual(whole?.outputs[0]?.tokenIds);
      expect(deltas.flatMap((d) => d.logprobs ?? [])).toEqual(whole?.outputs[0]?.logprobs);
      expect(deltas.length).toBeGreaterThan(5);
      expect(deltas.map((d) => d.finishReason)).toEqual([...Array(deltas.length - 1).fill(null), 'stop']);
    }
  });

  test('cumulative outputs grow to the whole, final gives one', async () => {
    const llm = await start(new ScriptedExecutor(say('abc')));
    const cumulative = await collect(llm.stream('p', long));
    expect(cumulative.map((o) => o.outputs[0]?.text)).toEqual(['a', 'ab', 'abc', 'abc']);
    expect(cumulative.map((o) => o.finished)).toEqual([false, false, false, true]);
    expect(await collect(llm.stream('p', { ...long, outputKind: 'final' }))).toMatchObject([{ finished: true, outputs: [{ text: 'abc' }] }]);
  });

  test('a slow consumer gets merged outputs', async () => {
    const llm = await start(new ScriptedExecutor(say('abcdefgh')));
    for (const [outputKind, texts] of [['delta', ['a', 'bcdefgh']], ['cumulative', ['a', 'abcdefgh']]] as const) {
      const seen: string[] = [];
      for await (const output of llm.stream('p', { ...long, outputKind, promptLogprobs: 0 })) {
        seen.push(output.outputs[0]!.text);
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
      expect(seen).toEqual(texts);
    }
  });

  test('deltas of several sequences add up by index; prompt logprobs come once', async () => {
    const llm = await start(new ScriptedExecutor((_prompt, { samplingParams }) => bytesOf('abcdef'.slice(0, 2 + samplingParams.seed))));
    const outputs = await collect(llm.stream('pq', { n: 3, seed: 0, promptLogprobs: 0, outputKind: 'delta', ...long }));
    const texts = ['', '', ''];
    for (const { index, text: piece } of outputs.flatMap((o) => o.outputs)) texts[index] += piece;
    expect(texts).toEqual(['ab', 'abc', 'abcd']);
    expect(outputs.filter((o) => o.promptLogprobs !== null)).toHaveLength(1);
    expect(outputs.map((o) => o.finished)).toEqual([...Array(outputs.length - 1).fill(false), true]);
  });

  test('leaving the loop aborts the request', async () => {
    const executor = new ScriptedExecutor(say('x'.repeat(400)));
    const llm = await start(executor);
    for await (const _output of llm.stream('p', long)) break;
    expect(await llm.stats()).toMatchObject({ numRunning: 0, numWaiting: 0 });
    expect(executor.numSteps).toBeLessThan(4);
  });

  test('return() and throw() do not wait for a pending next()', async () => {
    const executor = new ScriptedExecutor(echo);
    const llm = await start(executor);
    let release = (): void => undefined;
    executor.gate = new Promise((resolve) => (release = resolve));
    const stream = llm.stream('p', long);
    const pending = stream.next();
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(await stream.return(undefined)).toEqual({ done: true, value: undefined });
    expect(await pending).toEqual({ done: true, value: undefined });
    expect(await stream.next()).toEqual({ done: true, value: undefined });
    expect(await llm.stats()).toMatchObject({ numRunning: 0 });
    const other = llm.stream('p', long);
    await expect(other.throw(new Error('mine'))).rejects.toThrow('mine');
    expect(await other.next()).toEqual({ done: true, value: undefined });
    release();
  });

  test('several next() calls at once are served in order', async () => {
    const llm = await start(new ScriptedExecutor(say('ab')));
    const stream = llm.stream('p', { outputKind: 'delta', ...long });
    const results = await Promise.all([1, 2, 3, 4].map(() => stream.next()));
    expect(results.map((r) => (r.done ? null : r.value.outputs[0]?.text))).toEqual(['a', 'b', '', null]);
  });
});

describe('LLM: chat', () => {
  test('the conversation goes through the template of the model, without a second round of special tokens', async () => {
    const llm = await start(new ScriptedExecutor(say('hello')));
    const hi = [{ role: 'user', content: 'hi' }];
    expect((await llm.chat(hi, long))[0]).toMatchObject({ prompt: '[user]hi[assistant]', outputs: [{ text: 'hello' }] });
    expect((await llm.chat([hi, hi], long)).map((o) => o.prompt)).toEqual(['[user]hi[assistant]', '[user]hi[assistant]']);
    const outputs = await collect(llm.streamChat([...hi, { role: 'assistant', content: 'x' }], long, { addGenerationPrompt: false }));
    expect(outputs.at(-1)).toMatchObject({ prompt: '[user]hi[assistant]x', outputs: [{ text: 'hello' }] });
    await expect(llm.chat([hi, []], long)).rejects.toMatchObject({ code: 'ERR_KVASIR_CHAT_TEMPLATE' });
    await expect(llm.chat(null as never)).rejects.toMatchObject({ code: 'ERR_KVASIR_CHAT_TEMPLATE' });
  });
});

test('LLM.create refuses what is no object of options, and gives up on a signal', async () => {
  await expect(LLM.create(undefined as never)).rejects.toMatchObject({ code: 'ERR_KVASIR_CONFIG' });
  await expect(LLM.create({ model: '/none', nope: 1 } as never)).rejects.toMatchObject({ code: 'ERR_KVASIR_CONFIG' });
  const executor = new ScriptedExecutor(echo);
  const controller = new AbortController();
  let initialized = (): void => undefined;
  executor.initialize = () => new Promise((resolve) => (initialized = () => resolve({ numBlocks: 10 })));
  const parts = { config: testConfig(), tokenizer: byteTokenizer(), createExecutor: () => executor };
  const creating = LLM.create({ model: '/none', signal: controller.signal }, parts);
  await new Promise((resolve) => setImmediate(resolve));
  controller.abort(new Error('changed my mind'));
  await expect(creating).rejects.toThrow('changed my mind');
  initialized();
  await new Promise((resolve) => setTimeout(resolve, 10));
  expect(executor.shutdowns).toBe(1);
});

test('LLM.create frees what was taken when the model cannot be loaded', async () => {
  const executor = new ScriptedExecutor(echo);
  executor.initialize = () => Promise.reject(new Error('no weights'));
  await expect(testLLM(executor)).rejects.toThrow('no weights');
  expect(executor.shutdowns).toBe(1);
});
