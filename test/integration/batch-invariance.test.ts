import { batchSuite, WAYS } from './batch-suite';
import { STORIES, TALES } from './workload';

const CASES = [STORIES, TALES].flatMap((model) => (['float32', 'bfloat16'] as const).map((dtype) => ({ model, dtype })));

for (const { model, dtype } of CASES) {
  (model.missing ? describe.skip : describe)(`${model.name}, ${dtype}: what a request generates does not depend on`, () => {
    batchSuite({ model, args: { dtype }, ways: WAYS, same: 'bits' });
  });
}
