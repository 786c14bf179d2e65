import * as path from 'node:path';
import { LLM, type EngineArgs } from '../../lib/index';
import { cudaInfo } from '../../lib/tensor/device';
import { describeGpu } from '../fixtures/gpu';
import { expectCode } from '../fixtures/expect-error';
import { expectNothingLeft, open, TALES } from '../integration/workload';

const config = (name: string): string => path.resolve(__dirname, `../../examples/configs/${name}.json`);
const SMALL: EngineArgs = { model: config('llama-3.2-1b'), device: 'cuda', dtype: 'bfloat16', loadFormat: 'dummy', maxModelLen: 2048 };

describeGpu('on CUDA, an engine that does not fit', () => {
  const { totalBytes } = cudaInfo().devices[0] ?? { totalBytes: 0 };

  test.each<[string, Partial<EngineArgs>, RegExp]>([
    ['8B of weights in a hundredth of the device', { model: config('llama-3-8b'), gpuMemoryUtilization: 0.01 }, /^weights \(dtype bfloat16\) need 1\d\.\d\d GiB .*there are 0\.\d\d GiB.*gpuMemoryUtilization 0\.01 of/],
    ['steps of ten million tokens', { maxNumBatchedTokens: 10_000_000, kvCacheBytes: 1 << 20 }, /^activations \(maxNumBatchedTokens 10000000\) need .* lower maxNumBatchedTokens$/],
    ['a KV cache with more blocks than the device has bytes for', { numKvBlocks: 2 ** 31 - 1 }, /^KV cache \(numKvBlocks 2147483647\) need .* lower numKvBlocks$/],
    ['a KV cache of more bytes than the device has', { kvCacheBytes: 2 * totalBytes, maxModelLen: 131072 }, /^KV cache \(kvCacheBytes \d+\) need .* lower kvCacheBytes$/],
  ])('%s: the error says what is needed, what is there and which option helps; nothing is left', async (_name, args, message) => {
    const error = await expectCode('ERR_KVASIR_OUT_OF_MEMORY', () => LLM.create({ ...SMALL, ...args }));
    expect(error.message).toMatch(message);
    expectNothingLeft();
  });

  test('and one that fits runs afterwards', async () => {
    const llm = await open(TALES, { device: 'cuda' });
    const [output] = await llm.generate('Once upon a time', { temperature: 0, maxTokens: 8, ignoreEos: true });
    expect(output!.outputs[0]!.tokenIds).toHaveLength(8);
    await llm.close();
    expectNothingLeft();
  });
});
