import { execFileSync } from 'node:child_process';
import * as fs from 'node:fs';
import * as path from 'node:path';

import type { EngineArgs } from '../../lib/config/options';
import { cloneForWorker, resolveVllmConfig } from '../../lib/config/resolve';
import { expectCode } from '../fixtures/expect-error';
import { makeTempDir } from '../fixtures/safetensors-file';

const CONFIG = {
  architectures: ['LlamaForCausalLM'], model_type: 'llama', hidden_size: 64, num_hidden_layers: 3, num_attention_heads: 4, vocab_size: 512,
  max_position_embeddings: 4096, torch_dtype: 'bfloat16', eos_token_id: 2,
};

let dir: string;
beforeEach(() => {
  dir = makeTempDir();
  write('config.json', CONFIG);
});
afterEach(() => fs.rmSync(dir, { recursive: true }));

function write(name: string, content: unknown): void {
  fs.writeFileSync(path.join(dir, name), typeof content === 'string' || Buffer.isBuffer(content) ? content : JSON.stringify(content));
}
const resolve = (args: Partial<EngineArgs> = {}) => resolveVllmConfig({ model: dir, ...args });

describe('resolveVllmConfig', () => {
  it('gives plain data with every default derived', async () => {
    write('generation_config.json', { eos_token_id: [1, 2], temperature: 0.5 });
    const { device, ...config } = await resolve();
    expect(device.device).toBe('cpu');
    expect(device.numThreads).toBeGreaterThanOrEqual(1);
    expect(device.batchInvariant).toBe(false);
    expect(device.cacheDir).toMatch(/[\\/]kvasir$/);
    expect(config).toEqual({
      model: {
        modelPath: dir, tokenizerPath: dir, hfConfig: CONFIG, architectures: ['LlamaForCausalLM'], dtype: 'bfloat16', maxModelLen: 4096,
        vocabSize: 512, hiddenSize: 64, numHiddenLayers: 3, numAttentionHeads: 4, numKeyValueHeads: 4, headDim: 16, slidingWindow: null,
        interleavedSlidingWindow: null, tieWordEmbeddings: false, eosTokenIds: [1, 2], generationDefaults: { temperature: 0.5 },
        maxLogprobs: 20, enforceEager: false,
      },
      cache: { blockSize: 16, numBlocks: null, kvCacheDtype: 'auto', kvCacheBytes: null, gpuMemoryUtilization: 0.9, enablePrefixCaching: true, hybridKvCacheManager: true },
      scheduler: { maxNumBatchedTokens: 2048, maxNumSeqs: 256, enableChunkedPrefill: true, policy: 'fcfs', asyncScheduling: false },
      parallel: { tensorParallelSize: 1, tpRank: 0 },
      load: { loadFormat: 'auto' },
      quantization: null,
      staticForwardContext: new Map(),
      seed: 0,
    });
  });

  it('passes options on', async () => {
    const config = await resolve({
      tokenizer: path.join(dir, 'tok'), dtype: 'float16', numThreads: 3, numKvBlocks: 9, kvCacheDtype: 'fp8_e4m3', kvCacheBytes: 1000, enablePrefixCaching: false,
      schedulingPolicy: 'priority', seed: 5, maxLogprobs: 3, enforceEager: true, maxModelLen: 100, loadFormat: 'safetensors', device: 'cpu',
      batchInvariant: true, cacheDir: dir,
    });
    expect(config.model).toMatchObject({ tokenizerPath: path.join(dir, 'tok'), dtype: 'float16', maxModelLen: 100, maxLogprobs: 3, enforceEager: true });
    expect(config.cache).toEqual({ blockSize: 16, numBlocks: 9, kvCacheDtype: 'fp8', kvCacheBytes: 1000, gpuMemoryUtilization: 0.9, enablePrefixCaching: false, hybridKvCacheManager: true });
    expect(config).toMatchObject({ seed: 5, load: { loadFormat: 'safetensors' }, scheduler: { policy: 'priority' } });
    expect(config.device).toEqual({ device: 'cpu', numThreads: 3, batchInvariant: true, cacheDir: dir });
    expect((await resolve({ cacheDir: 'none' })).device.cacheDir).toBeNull();
  });

  it('passes quantization_config raw', async () => {
    write('config.json', { ...CONFIG, quantization_config: { quant_method: 'awq', bits: 4 } });
    expect((await resolve()).quantization).toEqual({ quant_method: 'awq', bits: 4 });
  });

  it('refuses what this build lacks', async () => {
    expect((await expectCode('ERR_KVASIR_UNSUPPORTED', () => resolve({ device: 'cuda' }))).message).toMatch(/no CUDA backend/);
  });

  it.each([['float32', 'float32'], ['float16', 'float16'], [undefined, 'float32']])('takes torch_dtype %s for %s', async (torch_dtype, dtype) => {
    write('config.json', { ...CONFIG, torch_dtype });
    expect((await resolve()).model.dtype).toBe(dtype);
  });

  it('asks for a dtype when torch_dtype is none', async () => {
    write('config.json', { ...CONFIG, torch_dtype: 'int8' });
    await expectCode('ERR_KVASIR_MODEL_CONFIG', () => resolve());
    expect((await resolve({ dtype: 'float32' })).model.dtype).toBe('float32');
  });

  it('bounds maxModelLen by config.json, and takes any where it states none', async () => {
    expect((await resolve({ maxModelLen: 4096 })).model.maxModelLen).toBe(4096);
    await expectCode('ERR_KVASIR_CONFIG', () => resolve({ maxModelLen: 4097 }));
    write('config.json', { ...CONFIG, max_position_embeddings: undefined });
    expect((await resolve()).model.maxModelLen).toBe(2048);
    expect((await resolve({ maxModelLen: 5000 })).model.maxModelLen).toBe(5000);
  });
});

describe('token budget', () => {
  const scheduler = async (args: Partial<EngineArgs>) => (await resolve(args)).scheduler;

  it('refuses given values that contradict each other', async () => {
    await expectCode('ERR_KVASIR_CONFIG', () => scheduler({ maxNumSeqs: 65, maxNumBatchedTokens: 64 }));
    await expectCode('ERR_KVASIR_CONFIG', () => scheduler({ enableChunkedPrefill: false, maxNumBatchedTokens: 4095 }));
    expect(await scheduler({ maxNumSeqs: 64, maxNumBatchedTokens: 64 })).toMatchObject({ maxNumSeqs: 64, maxNumBatchedTokens: 64 });
    expect(await scheduler({ enableChunkedPrefill: false, maxNumBatchedTokens: 4096 })).toMatchObject({ maxNumBatchedTokens: 4096 });
  });

  it('lets a default give way to a given value', async () => {
    expect(await scheduler({ maxNumBatchedTokens: 64 })).toMatchObject({ maxNumSeqs: 64, maxNumBatchedTokens: 64 });
    expect(await scheduler({ maxNumSeqs: 3000 })).toMatchObject({ maxNumSeqs: 3000, maxNumBatchedTokens: 3000 });
    expect(await scheduler({ enableChunkedPrefill: false })).toMatchObject({ maxNumBatchedTokens: 4096 });
  });
});

describe('where the model is', () => {
  it('reports a missing directory, and one without config.json', async () => {
    await expectCode('ERR_KVASIR_MODEL_NOT_FOUND', () => resolve({ model: path.join(dir, 'none') }));
    await expectCode('ERR_KVASIR_MODEL_NOT_FOUND', () => resolve({ model: path.join(dir, 'config.json', 'x') }));
    fs.rmSync(path.join(dir, 'config.json'));
    expect((await expectCode('ERR_KVASIR_MODEL_NOT_FOUND', () => resolve())).message).toMatch(/config\.json/);
  });

  it('takes a lone config.json for dummy weights only', async () => {
    write('generation_config.json', { temperature: 0.5 });
    const model = path.join(dir, 'config.json');
    const config = await resolve({ model, loadFormat: 'dummy' });
    expect(config.model).toMatchObject({ modelPath: model, tokenizerPath: dir, eosTokenIds: [2], generationDefaults: {} });
    await expectCode('ERR_KVASIR_CONFIG', () => resolve({ model }));
    await expectCode('ERR_KVASIR_CONFIG', () => resolve({ model, loadFormat: 'safetensors' }));
    expect((await resolve({ loadFormat: 'dummy' })).model.modelPath).toBe(dir);
  });

  it('refuses another kind of file', async () => {
    write('model.gguf', 'GGUF');
    await expectCode('ERR_KVASIR_MODEL_CONFIG', () => resolve({ model: path.join(dir, 'model.gguf'), loadFormat: 'dummy' }));
  });

  const damaged: [string, string | Buffer][] = [
    ['empty', ''],
    ['no JSON', '{"a":'],
    ['NaN', '{"a":NaN}'],
    ['no UTF-8', Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d])],
    ['an array', '[]'],
    ['null', 'null'],
    ['a number beyond doubles', JSON.stringify(CONFIG).replace('{', '{"x":{"y":[1e999]},')],
    ['deep', `${'{"a":'.repeat(100_000)}1${'}'.repeat(100_000)}`],
    ['over 10 MB', JSON.stringify(CONFIG).padEnd(10_000_001)],
  ];
  it.each(damaged)('refuses a config.json or generation_config.json that is damaged: %s', async (_name, text) => {
    write('generation_config.json', text);
    const error = await expectCode('ERR_KVASIR_MODEL_CONFIG', () => resolve());
    expect(error.message).toMatch(/^generation_config\.json/);
    write('config.json', text);
    await expectCode('ERR_KVASIR_MODEL_CONFIG', () => resolve());
  });

  it('counts brackets in strings as text', async () => {
    write('config.json', { ...CONFIG, note: `\\"${'['.repeat(1000)}` });
    expect((await resolve()).model.vocabSize).toBe(512);
  });

  it('refuses a FIFO and a directory as config.json without hanging', async () => {
    fs.rmSync(path.join(dir, 'config.json'));
    fs.mkdirSync(path.join(dir, 'config.json'));
    await expectCode('ERR_KVASIR_MODEL_CONFIG', () => resolve());
    fs.rmdirSync(path.join(dir, 'config.json'));
    execFileSync('mkfifo', [path.join(dir, 'config.json')]);
    await expectCode('ERR_KVASIR_MODEL_CONFIG', () => resolve());
  });
});

it('cloneForWorker copies everything but registered layers', async () => {
  const config = await resolve();
  config.staticForwardContext.set('a', { layerName: 'a', numKvHeads: 1, headDim: 16, slidingWindow: null });
  const copy = cloneForWorker(config);
  expect(copy).toEqual({ ...config, staticForwardContext: new Map() });
  expect(copy.model.hfConfig).not.toBe(config.model.hfConfig);
  expect(structuredClone(copy)).toEqual(copy);
});
