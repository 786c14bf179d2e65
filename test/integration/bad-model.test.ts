import * as fs from 'node:fs';
import * as path from 'node:path';
import { LLM, type EngineArgs, type ErrorCode, type RequestOutput } from '../../lib/index';
import type { TensorSpec } from '../fixtures/safetensors-file';
import { liveStorages } from '../../lib/tensor/device';
import { expectCode } from '../fixtures/expect-error';
import { itShared, sharedPath } from '../fixtures/shared';
import { ModelCopy } from './model-copy';
import { expectNothingLeft, open, TALES } from './workload';

const CONFIG = 'config.json';
const WEIGHTS = 'model.safetensors';
const INDEX = 'model.safetensors.index.json';
const EMBEDDING = 'model.embed_tokens.weight';
const GATE = 'model.layers.3.mlp.gate_proj.weight';
const O = 'model.layers.5.self_attn.o_proj.weight';
const Q = 'model.layers.0.self_attn.q_proj.weight';

/** What is done to a model, the code it must fail with, and what the message must say. */
type Damage = readonly [name: string, code: ErrorCode, message: RegExp, damage: (copy: ModelCopy) => void];

const config = (fields: Record<string, unknown>) => (copy: ModelCopy) => copy.editJson(CONFIG, (value) => Object.assign(value, fields));
const rows = (n: number): TensorSpec => ({ dtype: 'BF16', shape: [n, 256], data: Buffer.alloc(512 * n) });
const withoutWeights = (index: unknown) => (copy: ModelCopy) => {
  fs.renameSync(copy.file(WEIGHTS), copy.file('a.safetensors'));
  fs.writeFileSync(copy.file(INDEX), typeof index === 'string' ? index : JSON.stringify({ weight_map: index }));
};

const DAMAGES: readonly Damage[] = [
  ['config.json is missing', 'ERR_KVASIR_MODEL_NOT_FOUND', /config\.json/, (c) => fs.rmSync(c.file(CONFIG))],
  ['config.json is cut off', 'ERR_KVASIR_MODEL_CONFIG', /config\.json/, (c) => fs.truncateSync(c.file(CONFIG), 100)],
  ['config.json is no text', 'ERR_KVASIR_MODEL_CONFIG', /config\.json/, (c) => fs.writeFileSync(c.file(CONFIG), Buffer.from([0xff, 0xfe, 0, 1]))],
  ['config.json is a list', 'ERR_KVASIR_MODEL_CONFIG', /config\.json/, (c) => fs.writeFileSync(c.file(CONFIG), '[]')],
  ['config.json is a directory', 'ERR_KVASIR_MODEL_CONFIG', /config\.json/, (c) => (fs.rmSync(c.file(CONFIG)), fs.mkdirSync(c.file(CONFIG)))],
  ['hidden_size is a text', 'ERR_KVASIR_MODEL_CONFIG', /hidden_size/, config({ hidden_size: '256' })],
  ['hidden_size is huge', 'ERR_KVASIR_MODEL_CONFIG', /hidden_size/, config({ hidden_size: 2 ** 40 })],
  ['num_hidden_layers is negative', 'ERR_KVASIR_MODEL_CONFIG', /num_hidden_layers/, config({ num_hidden_layers: -1 })],
  ['heads that no KV heads divide', 'ERR_KVASIR_MODEL_CONFIG', /num_key_value_heads/, config({ num_key_value_heads: 3 })],
  ['an activation nobody knows', 'ERR_KVASIR_UNSUPPORTED', /hidden_act.*gelu_slow/, config({ hidden_act: 'gelu_slow' })],
  ['an architecture nobody knows', 'ERR_KVASIR_UNSUPPORTED_MODEL', /NoSuchForCausalLM.*LlamaForCausalLM/, config({ architectures: ['NoSuchForCausalLM'] })],
  ['an architecture named like an inherited property', 'ERR_KVASIR_UNSUPPORTED_MODEL', /constructor/, config({ architectures: ['constructor'] })],
  ['an unknown quantization', 'ERR_KVASIR_UNSUPPORTED', /newquant/, config({ quantization_config: { quant_method: 'newquant' } })],
  ['the weights are missing', 'ERR_KVASIR_MODEL_NOT_FOUND', /safetensors/, (c) => fs.rmSync(c.file(WEIGHTS))],
  ['the weights are cut off', 'ERR_KVASIR_CHECKPOINT', /model\.safetensors/, (c) => fs.truncateSync(c.file(WEIGHTS), 5_000_000)],
  ['the weights are empty', 'ERR_KVASIR_CHECKPOINT', /model\.safetensors/, (c) => fs.truncateSync(c.file(WEIGHTS), 0)],
  ['the weights have bytes too many', 'ERR_KVASIR_CHECKPOINT', /model\.safetensors/, (c) => fs.appendFileSync(c.file(WEIGHTS), 'more')],
  ['two tensors overlap', 'ERR_KVASIR_CHECKPOINT', /model\.safetensors/, (c) => c.editHeader((h) => (h[GATE]!.data_offsets = h[Q]!.data_offsets.map((o) => o) as [number, number]))],
  ['a tensor lies behind the end', 'ERR_KVASIR_CHECKPOINT', /model\.safetensors/, (c) => c.editHeader((h) => (h[GATE]!.data_offsets = [2 ** 40, 2 ** 40 + 360448]))],
  ['the index leads out of the directory', 'ERR_KVASIR_CHECKPOINT', /safetensors file beside the index/, withoutWeights({ [Q]: '../a.safetensors' })],
  ['the index is an absolute path', 'ERR_KVASIR_CHECKPOINT', /safetensors file beside the index/, withoutWeights({ [Q]: '/etc/a.safetensors' })],
  ['the index is no JSON', 'ERR_KVASIR_CHECKPOINT', /JSON/, withoutWeights('{')],
  ['the index names a file that is missing', 'ERR_KVASIR_MODEL_NOT_FOUND', /b\.safetensors/, withoutWeights({ [Q]: 'b.safetensors' })],
  ['a matrix of another shape', 'ERR_KVASIR_WEIGHTS', /gate_proj.*\[256, 704\].*expected 256 along dimension 1/, (c) => c.editTensors((t) => (t[GATE] = { ...t[GATE]!, shape: [256, 704] }))],
  ['a matrix with rows too many', 'ERR_KVASIR_WEIGHTS', /gate_proj.*\[705, 256\]/, (c) => c.editTensors((t) => (t[GATE] = rows(705)))],
  ['a matrix with columns too many', 'ERR_KVASIR_WEIGHTS', /o_proj.*\[256, 257\]/, (c) => c.editTensors((t) => (t[O] = { ...t[O]!, shape: [256, 257], data: Buffer.alloc(2 * 256 * 257) }))],
  ['an embedding with a row too few', 'ERR_KVASIR_WEIGHTS', /embed_tokens/, (c) => c.editTensors((t) => (t[EMBEDDING] = { ...t[EMBEDDING]!, shape: [2047, 256], data: t[EMBEDDING]!.data.subarray(512) }))],
  ['a norm of another rank', 'ERR_KVASIR_WEIGHTS', /model\.norm/, (c) => c.editTensors((t) => (t['model.norm.weight'] = { ...t['model.norm.weight']!, shape: [1, 256] }))],
  ['integers for weights', 'ERR_KVASIR_WEIGHTS', /model\.norm/, (c) => c.editTensors((t) => (t['model.norm.weight'] = { dtype: 'I32', shape: [256], data: Buffer.alloc(1024) }))],
  ['missing weights', 'ERR_KVASIR_WEIGHTS', /2 missing.*gate_proj.*q_proj|2 missing.*q_proj.*gate_proj/, (c) => c.editTensors((t) => (delete t[GATE], delete t[Q]))],
  ['weights too many', 'ERR_KVASIR_WEIGHTS', /model\.layers\.9\.extra/, (c) => c.editTensors((t) => (t['model.layers.9.extra'] = t['model.norm.weight']!))],
  ['a tokenizer that is no JSON', 'ERR_KVASIR_TOKENIZER', /tokenizer\.json/, (c) => fs.writeFileSync(c.file('tokenizer.json'), '{"model":')],
  ['a generation_config.json that is no JSON', 'ERR_KVASIR_MODEL_CONFIG', /generation_config\.json/, (c) => fs.writeFileSync(c.file('generation_config.json'), '{')],
];

const OPTIONS: readonly (readonly [options: Partial<EngineArgs> & Record<string, unknown>, code: ErrorCode, message: RegExp])[] = [
  [{ device: 'cuda' }, 'ERR_KVASIR_UNSUPPORTED', /cuda/],
  [{ tensorParallelSize: 3 }, 'ERR_KVASIR_CONFIG', /tensorParallelSize.*4 attention heads/],
  [{ model: path.join(TALES.path, 'nowhere') }, 'ERR_KVASIR_MODEL_NOT_FOUND', /nowhere/],
  [{ model: '' }, 'ERR_KVASIR_CONFIG', /model/],
  [{ maxNumSeqs: 0 }, 'ERR_KVASIR_CONFIG', /maxNumSeqs/],
  [{ maxNumSeqs: NaN }, 'ERR_KVASIR_CONFIG', /maxNumSeqs/],
  [{ maxModelLen: 1025 }, 'ERR_KVASIR_CONFIG', /maxModelLen.*1024/],
  [{ maxModelLen: -Infinity }, 'ERR_KVASIR_CONFIG', /maxModelLen/],
  [{ blockSize: 8 }, 'ERR_KVASIR_CONFIG', /blockSize/],
  [{ numKvBlocks: 1 }, 'ERR_KVASIR_CONFIG', /numKvBlocks/],
  [{ dtype: 'float64' as 'float32' }, 'ERR_KVASIR_CONFIG', /dtype/],
  [{ maxNumBatchedToken: 5 }, 'ERR_KVASIR_CONFIG', /maxNumBatchedTokens/],
  [{ kvCacheBytes: 100 }, 'ERR_KVASIR_OUT_OF_MEMORY', /kvCacheBytes/],
  [{ numKvBlocks: 2 ** 31 - 1 }, 'ERR_KVASIR_OUT_OF_MEMORY', /memory/],
];

const openFiles = (): number => fs.readdirSync('/dev/fd').length;

describe('LLM.create fails with one clear error, and leaves nothing behind, when', () => {
  let llm: LLM;
  let before: RequestOutput[];
  const ask = () => llm.generate(['Once upon a time', 'The dog'], { temperature: 0, maxTokens: 8 });

  beforeAll(async () => {
    llm = await open(TALES);
    before = await ask();
    await llm.close();
  });
  beforeEach(expectNothingLeft);

  /** The failure itself, and an engine of the same thread that works right after it. */
  async function expectFailure(args: EngineArgs, code: ErrorCode, message: RegExp): Promise<void> {
    const files = openFiles();
    const error = await expectCode(code, () => LLM.create(args));
    expect(error.message).toMatch(message);
    expect(error.message.length).toBeLessThan(1000);
    expectNothingLeft();
    expect(openFiles()).toBe(files);
  }

  test.each(DAMAGES)('%s: %s', async (_name, code, message, damage) => {
    const copy = new ModelCopy(TALES.path);
    try {
      damage(copy);
      await expectFailure({ model: copy.dir, device: 'cpu' }, code, message);
    } finally {
      copy.remove();
    }
  });

  test.each(OPTIONS)('given %j: %s', async (options, code, message) => {
    await expectFailure({ model: TALES.path, device: 'cpu', ...options }, code, message);
  });

  itShared('a checkpoint is quantized in a way that is not known, which the message names', async () => {
    const copy = new ModelCopy(sharedPath('models', 'babyllama-tok105-fp8'));
    try {
      copy.editJson(CONFIG, (value) => Object.assign(value.quantization_config as object, { quant_method: 'bitsandbytes' }));
      await expectFailure({ model: copy.dir, device: 'cpu' }, 'ERR_KVASIR_UNSUPPORTED', /bitsandbytes/);
    } finally {
      copy.remove();
    }
  });

  test('the signal has fired', async () => {
    const reason = new Error('not now');
    await expect(LLM.create({ model: TALES.path, device: 'cpu', signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
  });

  test('the signal fires while it loads; what was loaded is freed', async () => {
    const controller = new AbortController();
    const loading = LLM.create({ model: TALES.path, device: 'cpu', signal: controller.signal, onProgress: () => controller.abort() });
    await expect(loading).rejects.toMatchObject({ name: 'AbortError' });
    const deadline = Date.now() + 5000;
    while (liveStorages().count > 0 && Date.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 10));
    expectNothingLeft();
  });

  test('(and the next model loads and answers as before)', async () => {
    llm = await open(TALES);
    expect((await ask()).map((o) => o.outputs)).toEqual(before.map((o) => o.outputs));
    await llm.close();
    expectNothingLeft();
  });
});
