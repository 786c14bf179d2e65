import { cliFlag, ENGINE_OPTIONS } from '../../lib/config/options';
import { validateEngineArgs } from '../../lib/config/validate-args';
import { expectCode } from '../fixtures/expect-error';

describe('the table of options', () => {
  it('has defaults that lie in their own ranges', () => {
    for (const option of ENGINE_OPTIONS) {
      if (option.type === 'enum') expect(option.choices).toContain(option.default);
      if ((option.type === 'integer' || option.type === 'number') && option.default !== null) {
        expect(option.default >= option.min && option.default <= option.max).toBe(true);
      }
      expect(option.help).toMatch(/\.$/);
    }
  });

  it('names flags in kebab-case, all different', () => {
    expect(cliFlag('maxNumBatchedTokens')).toBe('--max-num-batched-tokens');
    expect(cliFlag('model')).toBe('--model');
    expect(new Set(ENGINE_OPTIONS.map((option) => cliFlag(option.name))).size).toBe(ENGINE_OPTIONS.length);
  });

  it('has null as default only where the value is derived', () => {
    const derived = ENGINE_OPTIONS.filter((option) => option.default === null).map((option) => option.name);
    expect(derived.sort()).toEqual(['cacheDir', 'kvCacheBytes', 'maxModelLen', 'model', 'numKvBlocks', 'numThreads', 'tensorParallelSecretFile', 'tokenizer']);
  });
});

describe('validateEngineArgs', () => {
  it('fills in defaults for what is left out, null or undefined', () => {
    const expected = {
      model: 'm', tokenizer: null, dtype: 'auto', device: 'auto', maxModelLen: null, maxNumSeqs: 256, maxNumBatchedTokens: 2048,
      blockSize: 16, numKvBlocks: null, kvCacheDtype: 'auto', kvCacheBytes: null, gpuMemoryUtilization: 0.9, asyncScheduling: false, enablePrefixCaching: true, hybridKvCacheManager: true, enableChunkedPrefill: true,
      schedulingPolicy: 'fcfs', tensorParallelSize: 1, numThreads: null, loadFormat: 'auto', seed: 0, maxLogprobs: 20, enforceEager: false,
      batchInvariant: false, cacheDir: null, quantization: 'auto', tensorParallelSecretFile: null, tensorParallelTimeout: 300,
    };
    expect(validateEngineArgs({ model: 'm' })).toEqual(expected);
    const nulls = Object.fromEntries(ENGINE_OPTIONS.map((option, i) => [option.name, i % 2 === 0 ? null : undefined]));
    expect(validateEngineArgs({ ...nulls, model: 'm' })).toEqual(expected);
  });

  it('keeps what is given', () => {
    const given = { model: 'm', maxModelLen: 7, enablePrefixCaching: false, schedulingPolicy: 'priority', seed: 2 ** 53 - 1, numKvBlocks: 2 };
    expect(validateEngineArgs(given)).toMatchObject(given);
  });

  it.each([null, undefined, 3, 'model', [], [['model', 'm']]])('refuses %p in place of options', async (args) => {
    await expectCode('ERR_KVASIR_CONFIG', () => validateEngineArgs(args));
  });

  it('requires a model, and does not find it on the prototype', async () => {
    await expectCode('ERR_KVASIR_CONFIG', () => validateEngineArgs({}));
    await expectCode('ERR_KVASIR_CONFIG', () => validateEngineArgs(Object.create({ model: 'm' })));
  });

  const unknown: [string, string][] = [
    ['max_model_len', 'maxModelLen'],
    ['maxModelLength', 'maxModelLen'],
    ['max-num-seqs', 'maxNumSeqs'],
    ['modle', 'model'],
    ['tensorParalelSize', 'tensorParallelSize'],
  ];
  it.each(unknown)('refuses %s and names %s', async (name, nearest) => {
    const error = await expectCode('ERR_KVASIR_CONFIG', () => validateEngineArgs({ model: 'm', [name]: 1 }));
    expect(error.message).toContain(name);
    expect(error.message).toContain(`'${nearest}'`);
  });

  it('refuses __proto__ and names far from any option', async () => {
    await expectCode('ERR_KVASIR_CONFIG', () => validateEngineArgs(JSON.parse('{"model":"m","__proto__":{}}')));
    await expectCode('ERR_KVASIR_CONFIG', () => validateEngineArgs({ model: 'm', ['z'.repeat(100_000)]: 1 }));
  });

  const wrong: [string, unknown][] = [
    ['model', ''], ['model', 5], ['model', 'a\0b'], ['tokenizer', {}], ['dtype', 'float8'], ['dtype', 16], ['device', 'gpu'],
    ['maxModelLen', 0], ['maxModelLen', -1], ['maxModelLen', 1.5], ['maxModelLen', NaN], ['maxModelLen', Infinity], ['maxModelLen', '4k'],
    ['maxModelLen', 2n], ['maxNumSeqs', 0], ['maxNumSeqs', 1e9], ['maxNumBatchedTokens', 0], ['blockSize', 32], ['blockSize', 8],
    ['numKvBlocks', 1], ['kvCacheBytes', 0], ['kvCacheBytes', 2 ** 60], ['enablePrefixCaching', 'true'], ['enableChunkedPrefill', 1],
    ['schedulingPolicy', 'lifo'], ['tensorParallelSize', 0], ['numThreads', 0], ['numThreads', 5000], ['loadFormat', 'pt'],
    ['seed', -1], ['seed', 2 ** 53], ['maxLogprobs', -2], ['enforceEager', 'no'],
    ['batchInvariant', 'yes'], ['cacheDir', ''], ['cacheDir', false],
  ];
  it.each(wrong)('refuses %s: %p', async (name, value) => {
    const error = await expectCode('ERR_KVASIR_CONFIG', () => validateEngineArgs({ model: 'm', [name]: value }));
    expect(error.message).toContain(`'${name}'`);
  });
});
