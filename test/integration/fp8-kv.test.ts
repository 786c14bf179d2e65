import { expectCode } from '../fixtures/expect-error';
import { fp8KvSuite } from './fp8-kv-suite';
import { open, STORIES, TALES } from './workload';

describe.each(['bfloat16', 'float32'] as const)(`a float8_e4m3 KV cache of ${TALES.name} in %s`, (dtype) => fp8KvSuite({ ...TALES, vocabSize: 2048, meanDifference: 0.03 }, { dtype }));

(STORIES.missing ? describe.skip : describe)(`a float8_e4m3 KV cache of ${STORIES.name}`, () => fp8KvSuite({ ...STORIES, vocabSize: 512, meanDifference: 0.2 }, {}));

test('other types of the KV cache are refused', async () => {
  for (const kvCacheDtype of ['fp8_e5m2', 'int8', 8]) {
    const error = await expectCode('ERR_KVASIR_CONFIG', () => open(TALES, { kvCacheDtype: kvCacheDtype as 'fp8' }));
    expect(error.message).toContain('kvCacheDtype');
  }
});
