import type { EngineArgs, LLM, RequestOutput } from '../../lib/index';
import { ModelCopy } from './model-copy';
import { essence, expectNothingLeft, mixedWork, open, randomPrompt, runAlone, runTogether, type TestModel } from './workload';

export interface Fp8KvModel extends TestModel {
  readonly vocabSize: number;
  /** False where kernels for whole prompts and for their pieces round differently (tensor cores). */
  readonly batchInvariant?: boolean;
  /** What rounding keys and values to e4m3 may cost: mean difference of log probabilities. Products of short heads average little of it away. */
  readonly meanDifference: number;
}

async function withLlm<T>(model: TestModel, args: Partial<EngineArgs>, body: (llm: LLM) => Promise<T>): Promise<T> {
  const llm = await open(model, args);
  try {
    return await body(llm);
  } finally {
    await llm.close();
  }
}

/** A text that the model writes itself, and what it thinks of its tokens. */
interface Text {
  readonly tokens: readonly number[];
  readonly from: number;
}

async function write(llm: LLM, vocabSize: number): Promise<Text[]> {
  const prompts = [1, 7, 40].map((length, i) => [1, ...randomPrompt(i, length, vocabSize)]);
  const outputs = await llm.generate(prompts.map((promptTokenIds) => ({ promptTokenIds })), { temperature: 0, maxTokens: 200, ignoreEos: true });
  return outputs.map((o, i) => ({ tokens: [...prompts[i]!, ...o.outputs[0]!.tokenIds], from: prompts[i]!.length }));
}

async function judge(llm: LLM, texts: readonly Text[]): Promise<{ logprobs: number[]; firsts: number }> {
  const outputs = await llm.generate(texts.map(({ tokens }) => ({ promptTokenIds: tokens })), { temperature: 0, maxTokens: 1, promptLogprobs: 0 });
  const written = outputs.flatMap((o, i) => o.promptLogprobs!.slice(texts[i]!.from).map((entries) => entries![0]!));
  return { logprobs: written.map((e) => e.logprob), firsts: written.filter((e) => e.rank === 1).length / written.length };
}

/** Scales of all layers under some names, in a copy of a model in one file. */
function copyWithScales(model: TestModel, names: Readonly<Record<string, number>>, quantization?: object): ModelCopy {
  const copy = new ModelCopy(model.path);
  copy.editTensors((tensors) => {
    const layers = new Set(Object.keys(tensors).flatMap((name) => /layers\.(\d+)\./.exec(name)?.[1] ?? []));
    for (const layer of layers)
      for (const [name, value] of Object.entries(names))
        tensors[`model.layers.${layer}.self_attn.${name}`] = { dtype: 'F32', shape: [], data: Buffer.from(Float32Array.of(value).buffer) };
  });
  if (quantization) copy.editJson('config.json', (config) => (config.quantization_config = quantization));
  return copy;
}

/** What holds of a float8_e4m3 KV cache on any device; call inside a describe. */
export function fp8KvSuite(model: Fp8KvModel, args: Partial<EngineArgs>): void {
  const fp8 = { ...args, kvCacheDtype: 'fp8' } as const;
  let warnings: jest.SpyInstance;

  beforeEach(() => {
    warnings = jest.spyOn(process, 'emitWarning').mockImplementation();
  });
  afterEach(() => {
    warnings.mockRestore();
    expectNothingLeft();
  });

  test('thinks nearly the same of texts as a cache of the model: mean difference of log probabilities, and nine of ten greedy tokens', async () => {
    const texts = await withLlm(model, args, (llm) => write(llm, model.vocabSize));
    const exact = await withLlm(model, args, (llm) => judge(llm, texts));
    const rounded = await withLlm(model, fp8, (llm) => judge(llm, texts));
    const differences = exact.logprobs.map((value, i) => Math.abs(value - rounded.logprobs[i]!));
    const mean = differences.reduce((sum, d) => sum + d, 0) / differences.length;
    expect(mean).toBeLessThan(model.meanDifference);
    expect(mean).toBeGreaterThan(0);
    expect(exact.firsts).toBeGreaterThan(0.99);
    expect(rounded.firsts).toBeGreaterThan(0.9);
  });

  (model.batchInvariant === false ? test.skip : test)('gives a request the same bits alone and in a batch, with shared prefixes and in small steps', async () => {
    const work = mixedWork(12, model.vocabSize);
    const alone = await withLlm(model, fp8, (llm) => runAlone(llm, work));
    for (const changes of [{}, { enablePrefixCaching: false }, { maxNumBatchedTokens: 32, maxNumSeqs: 4 }]) {
      const outputs = await withLlm(model, { ...fp8, ...changes }, (llm) => runTogether(llm, work));
      expect(outputs.map(essence)).toEqual(alone.map(essence));
    }
  });

  const answer = async (names: Readonly<Record<string, number>>, options: Partial<EngineArgs>, quantization?: object): Promise<unknown[]> => {
    const copy = copyWithScales(model, names, quantization);
    try {
      const run = (llm: LLM): Promise<RequestOutput[]> => llm.generate({ promptTokenIds: randomPrompt(3, 50, model.vocabSize) }, { temperature: 0, maxTokens: 8, promptLogprobs: 0 });
      return (await withLlm({ ...model, path: copy.dir }, options, run)).map(essence);
    } finally {
      copy.remove();
    }
  };

  test('uses the scales of the checkpoint, whatever their names', async () => {
    const expected = await answer({ 'attn.k_scale': 0.02, 'attn.v_scale': 0.01 }, fp8);
    expect(warnings).not.toHaveBeenCalled();
    expect(await answer({ 'k_proj.k_scale': 0.02, 'v_proj.v_scale': 0.01 }, fp8)).toEqual(expected);
    expect(await answer({ k_scale: 0.02, v_scale: 0.01, q_scale: 5 }, fp8)).toEqual(expected);
    expect(await answer({ kv_scale: 0.02 }, fp8)).toEqual(await answer({ k_scale: 0.02, v_scale: 0.02 }, fp8));
    expect(warnings).not.toHaveBeenCalled();
    const plain = await answer({}, fp8);
    expect(plain).not.toEqual(expected);
    expect(warnings.mock.calls.map((call) => (call as [string, object])[1])).toEqual([{ code: 'KVASIR_KV_CACHE_SCALE' }]); // one for all layers
    expect(await answer({ k_scale: 1, v_scale: 1 }, fp8)).toEqual(plain);
  });

  test("is what 'auto' takes when kv_cache_scheme of compressed-tensors says so; then too scales are used", async () => {
    const scheme = { quant_method: 'compressed-tensors', config_groups: {}, kv_cache_scheme: { num_bits: 8, type: 'float', strategy: 'tensor', dynamic: false, symmetric: true } };
    const expected = await answer({ k_scale: 0.02, v_scale: 0.01 }, fp8);
    expect(await answer({ k_scale: 0.02, v_scale: 0.01 }, args, scheme)).toEqual(expected);
  });
}
