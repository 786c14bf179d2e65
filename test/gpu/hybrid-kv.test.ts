import type { EngineArgs, RequestOutput } from '../../lib/index';
import { describeGpu } from '../fixtures/gpu';
import { hasShared, sharedPath } from '../fixtures/shared';
import { hybridKvSuite, SLIDING_MODELS } from '../integration/hybrid-kv-suite';
import { ModelCopy } from '../integration/model-copy';
import { essence, mixedWork, open, runTogether } from '../integration/workload';

const EXACT = { device: 'cuda', batchInvariant: true } as const;
const describeModels = hasShared ? describeGpu : describe.skip;

for (const model of SLIDING_MODELS) describeModels(`on CUDA, KV blocks of layers with sliding windows: ${model.name}`, () => hybridKvSuite(model, EXACT));

// Heads of 64 in bfloat16 take the tensor core kernels, which must not look at the blocks before the window either.
describeModels.each([{ windows: [null, 16] }, { windows: [16, 16] }, { windows: [40, 5] }])('on CUDA, windows $windows in bfloat16', ({ windows }) => {
  test.each([true, false])('give what layers that keep everything give (enforceEager: %p)', async (enforceEager) => {
    const copy = new ModelCopy(sharedPath('models', 'tiny-random', 'llama-hd64-bf16'));
    copy.editJson('config.json', (config) => Object.assign(config, { sliding_window: windows }));
    const work = mixedWork(16, 512, 150).map((w) => ({ ...w, params: { ...w.params, ignoreEos: true } }));
    const run = async (args: Partial<EngineArgs>): Promise<RequestOutput[]> => {
      const llm = await open({ name: 'sliding', path: copy.dir, missing: false }, { ...EXACT, dtype: 'bfloat16', maxModelLen: 512, enforceEager, enablePrefixCaching: false, ...args });
      try {
        return await runTogether(llm, work);
      } finally {
        await llm.close();
      }
    };
    try {
      expect((await run({})).map(essence)).toEqual((await run({ hybridKvCacheManager: false })).map(essence));
    } finally {
      copy.remove();
    }
  });
});
