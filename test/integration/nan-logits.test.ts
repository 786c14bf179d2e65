import { nanSuite } from './nan-suite';
import { STORIES, TALES } from './workload';

for (const model of [STORIES, TALES]) {
  (model.missing ? describe.skip : describe)(`NaN in the embedding of one token, ${model.name}`, () => nanSuite(model));
}
