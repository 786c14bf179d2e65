import type { EngineArgs } from '../../lib/index';
import { batchSuite, WAYS } from '../integration/batch-suite';
import { STORIES, TALES } from '../integration/workload';
import { describeGpu } from '../fixtures/gpu';

const { 'on one thread': _cpuOnly, ...COMMON } = WAYS;

/** Further ways to run requests that only a GPU has. */
const GPU_WAYS: Readonly<Record<string, Partial<EngineArgs>>> = {
  ...COMMON,
  'without graphs': { enforceEager: true },
  'without graphs, with a step queued ahead': { enforceEager: true, asyncScheduling: true },
};

/** Kernels that are chosen by the size of the batch round differently: in bfloat16 a near tie is then enough for another token. */
const CASES = [
  { model: STORIES, same: 'bits', args: { dtype: 'float32', batchInvariant: true } },
  { model: TALES, same: 'bits', args: { dtype: 'float32', batchInvariant: true } },
  { model: TALES, same: 'tokens', args: { dtype: 'float32' } },
] as const;

for (const { model, same, args } of CASES) {
  (model.missing ? describe.skip : describeGpu)(`on CUDA, ${model.name}, ${JSON.stringify(args)}: the ${same} of what a request generates do not depend on`, () => {
    batchSuite({ model, args: { device: 'cuda', ...args }, ways: GPU_WAYS, same });
  });
}
