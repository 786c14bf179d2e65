import { describeGpu } from '../fixtures/gpu';
import { hasShared } from '../fixtures/shared';
import { exchangesCandidates } from '../integration/exchange-suite';
import { bfloat16Ranks, changedFixture, FIXTURES, goldenRanks, MODELS, OTHER_HEADS, sameAsOneRank } from '../integration/tensor-parallel-suite';
import { modelDir } from '../models/golden-suite';

/** Matrices of other widths are multiplied by other kernels, which add in another order. */
const OPTIONS = { device: 'cuda', tolerance: 1e-3 } as const;

/** Ranks that a device takes: more could not all be at work at once. */
const MOST_RANKS = 4;
const CUDA_MODELS = MODELS.map(([name, sizes]) => [name, sizes.filter((size) => size <= MOST_RANKS)] as const);

const describeModels = hasShared ? describeGpu : describe.skip;

describeModels('on CUDA, ranks on one device compute what one rank does', () => {
  it.each(CUDA_MODELS)('%s over %j', (name, sizes) => goldenRanks(name, sizes, OPTIONS));

  it.each(['kvasir-tales-5m', 'babyllama-tok105', 'babyllama-tok105-fp8', 'babyllama-tok105-awq-int4-g32', 'babyllama-tok105-gptq-int4-g32'])(
    '%s in bfloat16',
    (name) => bfloat16Ranks(name, 2, 'cuda'),
  );

  it.each([true, false].flatMap((eager) => ['kvasir-tales-5m', 'babyllama-tok105', 'tiny-random/gemma2'].map((name) => [name, eager] as const)))(
    '%s, drawing from the largest logits of each rank (enforceEager: %p)',
    (name, eager) => exchangesCandidates(modelDir(name), [2, MOST_RANKS], 'cuda', eager),
  );
});

describeGpu('on CUDA, ranks on one device compute what one rank does (fixtures)', () => {
  it.each(FIXTURES)('%s over %j', (name, sizes) => goldenRanks(name, sizes, OPTIONS));

  it.each(OTHER_HEADS)('%s with %s %d over %j', (name, field, heads, sizes) =>
    changedFixture(name, { [field]: heads }, (dir) => sameAsOneRank(dir, sizes, 64, OPTIONS)),
  );
});
