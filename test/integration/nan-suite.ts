import type { EngineArgs, LLM, RequestOutput } from '../../lib/index';
import { ModelCopy } from './model-copy';
import { expectNothingLeft, open, randomPrompt, type TestModel } from './workload';

const EMBEDDING = 'model.embed_tokens.weight';
/** Its embedding is NaN: a prompt that holds it has no finite hidden state from there on. */
const POISON = 200;
const GREEDY = { temperature: 0, maxTokens: 8, ignoreEos: true };

/** A copy of the model with an LM head of its own, so that only what is fed in is poisoned, not the logits of all. */
function poisoned(model: TestModel): ModelCopy {
  const copy = new ModelCopy(model.path);
  copy.editJson('config.json', (config) => (config.tie_word_embeddings = false));
  copy.editTensors((tensors) => {
    const embedding = tensors[EMBEDDING]!;
    tensors['lm_head.weight'] = { ...embedding, data: Buffer.from(embedding.data) };
    const rowBytes = embedding.data.length / embedding.shape[0]!;
    // All bits set is NaN in float32 and in bfloat16.
    embedding.data.fill(0xff, POISON * rowBytes, POISON * rowBytes + 4);
  });
  return copy;
}

/** Registers the tests of a model in which the embedding of one token is NaN. */
export function nanSuite(model: TestModel, given: Partial<EngineArgs> = {}): void {
  let copy: ModelCopy | null = null;
  afterEach(() => {
    copy?.remove();
    copy = null;
    expectNothingLeft();
  });

  async function withPoisoned(use: (llm: LLM, vocabSize: number) => Promise<void>, args: Partial<EngineArgs> = {}): Promise<void> {
    copy ??= poisoned(model);
    const llm = await open({ ...model, path: copy.dir }, { dtype: 'float32', maxNumSeqs: 16, ...given, ...args });
    try {
      await use(llm, llm.config.model.vocabSize);
      expect(await llm.stats()).toMatchObject({ numRunning: 0, numWaiting: 0, kvCacheUsage: 0 });
      expect(await llm.resetPrefixCache()).toBe(true);
    } finally {
      await llm.close();
    }
  }

  const clean = (seed: number, vocabSize: number): number[] => randomPrompt(seed, 40, vocabSize).map((id) => (id === POISON ? POISON + 1 : id));
  const at = (prompt: readonly number[], position: number): number[] => prompt.map((id, i) => (i === position ? POISON : id));

  test.each([false, true])('ends the requests that meet it with finishReason error, and no other (asyncScheduling: %s)', async (asyncScheduling) => {
    await withPoisoned(async (llm, vocabSize) => {
      const prompts = Array.from({ length: 8 }, (_, i) => clean(i, vocabSize));
      // The quiet run has another order and other neighbours.
      const quiet: RequestOutput[] = [];
      for (const promptTokenIds of prompts) quiet.push(...(await llm.generate({ promptTokenIds }, GREEDY)));
      expect(await llm.resetPrefixCache()).toBe(true);
      const mixed = prompts.flatMap((prompt, i) => [prompt, at(clean(100 + i, vocabSize), 5 * i)]);
      const outputs = await llm.generate(mixed.map((promptTokenIds) => ({ promptTokenIds })), GREEDY);
      outputs.forEach((output, i) => {
        if (i % 2 === 0) return expect(output.outputs).toEqual(quiet[i / 2]!.outputs);
        expect(output.finished).toBe(true);
        expect(output.outputs[0]).toMatchObject({ finishReason: 'error', tokenIds: [], text: '', error: { code: 'ERR_KVASIR_NAN_LOGITS', message: expect.stringContaining('NaN') } });
      });
    }, { asyncScheduling });
  });

  test('ends sampling with every parameter, and logprobs, the same way', async () => {
    await withPoisoned(async (llm, vocabSize) => {
      const promptTokenIds = at(clean(1, vocabSize), 39);
      const kinds = [
        { temperature: 1, seed: 1 },
        { temperature: 0.8, topP: 0.9, topK: 20, minP: 0.1, seed: 1 },
        { temperature: 0.8, topK: 1, seed: 1, repetitionPenalty: 1.5, presencePenalty: 1 },
        { temperature: 0, logprobs: 3, logitBias: { 7: 50 } },
        { temperature: 1, seed: 1, allowedTokenIds: [5, 6, 7] },
      ];
      const outputs = await llm.generate(kinds.map(() => ({ promptTokenIds })), kinds);
      expect(outputs.map((o) => o.outputs[0]!.finishReason)).toEqual(kinds.map(() => 'error'));
      const [scored] = await llm.generate({ promptTokenIds }, { ...GREEDY, promptLogprobs: 1 });
      expect(scored!.outputs[0]!.finishReason).toBe('error');
    });
  });

  test('leaves nothing in the prefix cache that others could share', async () => {
    await withPoisoned(async (llm, vocabSize) => {
      const prefix = clean(3, vocabSize);
      const bad = at(prefix, 2);
      const [failed] = await llm.generate({ promptTokenIds: bad }, GREEDY);
      expect(failed!.outputs[0]!.finishReason).toBe('error');
      const [again] = await llm.generate({ promptTokenIds: [...bad, 9] }, GREEDY);
      expect(again).toMatchObject({ numCachedTokens: 0, outputs: [{ finishReason: 'error' }] });
      // What the poisoned request shared with a sound one is not trusted either; it is computed anew.
      const [sound] = await llm.generate({ promptTokenIds: prefix }, GREEDY);
      const [tail] = await llm.generate({ promptTokenIds: at(prefix, 39) }, GREEDY);
      const [after] = await llm.generate({ promptTokenIds: prefix }, GREEDY);
      expect(tail!.outputs[0]!.finishReason).toBe('error');
      expect(after!.outputs).toEqual(sound!.outputs);
      expect(sound!.outputs[0]!.finishReason).toBe('length');
    });
  });

  test.each(['float32', 'bfloat16'] as const)('does not reach requests that get its KV blocks afterwards (%s)', async (dtype) => {
    const tokens: unknown[] = [];
    for (const dirty of [false, true]) {
      await withPoisoned(
        async (llm, vocabSize) => {
          // The pool has four blocks, and NaN is all over them, also behind the end of the sequences that come next.
          if (dirty) await llm.generate({ promptTokenIds: new Array<number>(62).fill(POISON) }, GREEDY);
          const prompts = [clean(5, vocabSize).slice(0, 18), clean(6, vocabSize).slice(0, 1)];
          const outputs = await llm.generate(prompts.map((promptTokenIds) => ({ promptTokenIds })), GREEDY);
          tokens.push(outputs.map((o) => o.outputs));
        },
        { dtype, numKvBlocks: 5 },
      );
    }
    expect(tokens[1]).toEqual(tokens[0]);
    expect(tokens[0]).toMatchObject([[{ finishReason: 'length' }], [{ finishReason: 'length' }]]);
  });
}
