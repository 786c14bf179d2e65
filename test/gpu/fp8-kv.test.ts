import { describeGpu } from '../fixtures/gpu';
import { fp8KvSuite } from '../integration/fp8-kv-suite';
import { STORIES, TALES } from '../integration/workload';

const EXACT = { device: 'cuda', batchInvariant: true } as const;

// Heads of 64 in 16-bit types take the tensor core kernels, float32 and heads of 8 the plain one.
describe.each(['bfloat16', 'float16', 'float32'] as const)('on CUDA, %s', (dtype) => {
  describeGpu(`a float8_e4m3 KV cache of ${TALES.name}`, () => fp8KvSuite({ ...TALES, vocabSize: 2048, meanDifference: 0.04, batchInvariant: dtype === 'float32' }, { ...EXACT, dtype }));
});

(STORIES.missing ? describe.skip : describeGpu)(`on CUDA, a float8_e4m3 KV cache of ${STORIES.name}`, () => fp8KvSuite({ ...STORIES, vocabSize: 512, meanDifference: 0.2 }, EXACT));
