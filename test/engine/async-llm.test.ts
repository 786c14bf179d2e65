import * as path from 'node:path';
import { AsyncLLM, LLM, type RequestOutput } from 'kvasir';
import { describeShared, readSharedJson, sharedPath } from '../fixtures/shared';

interface Golden {
  greedy: { prompt: string; prompt_ids: number[]; output_ids: number[]; steps_with_gap_below_0_05: number[] }[];
  chat?: { user: string; rendered: string; prompt_ids: number[]; output_ids: number[] }[];
}

async function last(stream: AsyncIterable<RequestOutput>): Promise<RequestOutput> {
  let output: RequestOutput | undefined;
  for await (output of stream);
  if (output === undefined) throw new Error('expected an output');
  return output;
}

/** Parameters that repeat a golden continuation. */
const greedy = (outputIds: readonly number[]) => ({ temperature: 0, maxTokens: outputIds.length });
/** Continuations up to the first step whose two best tokens are too close to compare across implementations. */
const clear = (golden: Golden) => golden.greedy.map((g) => ({ ...g, output_ids: g.output_ids.slice(0, g.steps_with_gap_below_0_05[0]) }));

describeShared('AsyncLLM on stories260K', () => {
  const model = sharedPath('models/stories260K');
  const golden = (): Golden['greedy'] => clear(readSharedJson<Golden>('models/stories260K/golden.json'));
  let llm: AsyncLLM;
  beforeAll(async () => {
    llm = await AsyncLLM.create({ model });
  });
  afterAll(() => llm?.close());

  test('greedy requests, all at once, equal the golden continuations', async () => {
    expect(golden().length).toBeGreaterThan(0);
    const outputs = await Promise.all(golden().map((g) => last(llm.generate(g.prompt, greedy(g.output_ids)))));
    expect(outputs.map((o) => o.promptTokenIds)).toEqual(golden().map((g) => g.prompt_ids));
    expect(outputs.map((o) => o.outputs[0]?.tokenIds)).toEqual(golden().map((g) => g.output_ids));
  });

  test('the deltas of a stream add up to the text of LLM.generate', async () => {
    const params = { temperature: 0, maxTokens: 60, stop: ['Lily'] };
    const offline = await LLM.create({ model });
    const [whole] = await offline.generate('Once upon a time', params);
    await offline.close();
    let text = '';
    for await (const output of llm.generate('Once upon a time', { ...params, outputKind: 'delta' })) text += output.outputs[0]!.text;
    expect(text).toBe(whole?.outputs[0]?.text);
    expect(whole?.outputs[0]).toMatchObject({ finishReason: 'stop', stopReason: 'Lily' });
    expect(text).not.toContain('Lily');
  });

  test('seeded sampling repeats itself, and n sequences differ', async () => {
    const params = { temperature: 1, seed: 5, n: 3, maxTokens: 30 };
    const [first, again] = await Promise.all([last(llm.generate('Once', params)), last(llm.generate('Once', params))]);
    const texts = first.outputs.map((o) => o.text);
    expect(again.outputs.map((o) => o.text)).toEqual(texts);
    expect(new Set(texts).size).toBeGreaterThan(1);
  });

  test('logprobs are sorted, and those of a greedy token are the best', async () => {
    const output = await last(llm.generate('Once', { temperature: 0, maxTokens: 4, logprobs: 3, promptLogprobs: 1 }));
    for (const position of output.outputs[0]!.logprobs!) {
      expect(position.map((entry) => entry.rank)).toEqual([1, 2, 3]);
      expect(position.map((entry) => entry.logprob)).toEqual(position.map((entry) => entry.logprob).sort((a, b) => b - a));
    }
    expect(output.promptLogprobs).toHaveLength(output.promptTokenIds.length);
    expect(output.promptLogprobs![0]).toBeNull();
  });

  test('an aborted request leaves the others alone', async () => {
    const g = golden()[0]!;
    const controller = new AbortController();
    const aborted = last(llm.generate('Once', { maxTokens: 200, ignoreEos: true }, { signal: controller.signal }));
    const other = last(llm.generate(g.prompt, greedy(g.output_ids)));
    setImmediate(() => controller.abort());
    await expect(aborted).rejects.toMatchObject({ name: 'AbortError' });
    expect((await other).outputs[0]?.tokenIds).toEqual(g.output_ids);
    expect(await llm.stats()).toMatchObject({ numRunning: 0, numWaiting: 0 });
  });

  test('bad requests are refused, the next one runs', async () => {
    await expect(llm.generate('x', { topP: 2 }).next()).rejects.toMatchObject({ code: 'ERR_KVASIR_PARAMS' });
    await expect(llm.generate({ promptTokenIds: [llm.config.model.vocabSize] }).next()).rejects.toMatchObject({ code: 'ERR_KVASIR_PROMPT' });
    await expect(llm.generate({ promptTokenIds: new Int32Array(100_000) }).next()).rejects.toMatchObject({ code: 'ERR_KVASIR_PROMPT_TOO_LONG' });
    expect((await last(llm.generate('x', { maxTokens: 1 }))).finished).toBe(true);
  });

  test('close with a request running fails it and takes less than 2 s', async () => {
    const other = await AsyncLLM.create({ model });
    const running = expect(last(other.generate('Once', { maxTokens: 400, ignoreEos: true }))).rejects.toMatchObject({ code: 'ERR_KVASIR_CLOSED' });
    await new Promise((resolve) => setTimeout(resolve, 5));
    const from = performance.now();
    await other.close();
    expect(performance.now() - from).toBeLessThan(2000);
    await running;
  });
});

test('a model that does not exist is the same error from LLM and AsyncLLM', async () => {
  for (const create of [LLM.create, AsyncLLM.create]) {
    await expect(create({ model: '/no/such/model' })).rejects.toMatchObject({ name: 'KvasirError', code: 'ERR_KVASIR_MODEL_NOT_FOUND' });
  }
});

describe('kvasir-tales-5m of the examples', () => {
  const model = path.join(__dirname, '../../examples/models/kvasir-tales-5m');
  // The golden texts were made in float32 arithmetic on the bfloat16 weights.
  const options = { model, dtype: 'float32' as const };

  test('LLM streams a story', async () => {
    const llm = await LLM.create(options);
    const output = await last(llm.stream('Once upon a time', { temperature: 0, maxTokens: 20 }));
    expect(output.outputs[0]?.text).toBe(', there was a little girl named Lily. She loved to play outside in the sun. One day');
    await llm.close();
  });

  describeShared('compared with its golden continuations', () => {
    const golden = (): Golden => readSharedJson<Golden>('models/kvasir-tales-5m/golden.json');

    test('AsyncLLM: greedy and chat', async () => {
      const llm = await AsyncLLM.create(options);
      for (const g of clear(golden())) {
        expect((await last(llm.generate(g.prompt, greedy(g.output_ids)))).outputs[0]?.tokenIds).toEqual(g.output_ids);
      }
      const chat = golden().chat ?? [];
      expect(chat.length).toBeGreaterThan(0);
      for (const g of chat) {
        const output = await last(llm.chat([{ role: 'user', content: g.user }], { temperature: 0, maxTokens: 10 }));
        expect(output).toMatchObject({ prompt: g.rendered, promptTokenIds: g.prompt_ids });
        expect(output.outputs[0]?.tokenIds).toEqual(g.output_ids.slice(0, 10));
      }
      await llm.close();
    });
  });
});
