import type { RequestOutput } from '../../lib/index';
import { AsyncLLM } from 'kvasir';
import { describeGpu } from '../fixtures/gpu';
import { closeSuite } from '../integration/close-suite';
import { failureSuite } from '../integration/failure-suite';
import { nanSuite } from '../integration/nan-suite';
import { prefixCacheSuite } from '../integration/prefix-cache-suite';
import { argsFor, mixedWork, open, runTogether, STORIES, TALES, tokensAndText } from '../integration/workload';

/** Results that are compared must depend on no other request; in float32 they then depend on neither chunks nor cached prefixes. */
const EXACT = { device: 'cuda', batchInvariant: true } as const;

describeGpu('on CUDA, the prefix cache (kvasir-tales-5m)', () => prefixCacheSuite(EXACT));

// A graph's launch runs no ops that could be made to fail.
describeGpu('on CUDA, an engine that fails in the middle of its work (kvasir-tales-5m)', () => failureSuite({ ...EXACT, dtype: 'float32', enforceEager: true }));

for (const model of [STORIES, TALES]) {
  const describeModel = model.missing ? describe.skip : describeGpu;
  describeModel(`on CUDA, close() of ${model.name}`, () => closeSuite(model, EXACT));
  describeModel(`on CUDA, NaN in the embedding of one token, ${model.name}`, () => nanSuite(model, EXACT));
}

describeGpu('on CUDA, AsyncLLM (kvasir-tales-5m)', () => {
  test('gives what LLM gives, to 24 streams at once', async () => {
    const args = { ...EXACT, dtype: 'float32' } as const;
    const work = mixedWork(24, 2048);
    const llm = await open(TALES, args);
    const expected = await runTogether(llm, work);
    await llm.close();
    const engine = await AsyncLLM.create(argsFor(TALES, args));
    const last = async ({ promptTokenIds, params }: (typeof work)[number]): Promise<RequestOutput> => {
      let output: RequestOutput | null = null;
      for await (output of engine.generate({ promptTokenIds }, params));
      return output!;
    };
    try {
      expect((await Promise.all(work.map(last))).map(tokensAndText)).toEqual(expected.map(tokensAndText));
      expect(await engine.stats()).toMatchObject({ numRunning: 0, numWaiting: 0, kvCacheUsage: 0 });
    } finally {
      await engine.close();
    }
  });
});
