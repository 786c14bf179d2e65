import { resolveVllmConfig } from '../../lib/config/resolve';
import { buildModel } from '../../lib/loader/model-loader';
import { expectCode } from '../fixtures/expect-error';
import { describeShared, sharedPath } from '../fixtures/shared';
import { modelDir } from '../models/golden-suite';
import { FORMATS } from '../quantization/fixtures/formats';
import { ask, largestDifference, QuantizedModel } from '../quantization/fixtures/quantized-model';
import { exchangesCandidates } from './exchange-suite';
import { bfloat16Ranks, changedFixture, FIXTURES, goldenRanks, MODELS, OTHER_HEADS, ranks, sameAsOneRank } from './tensor-parallel-suite';
import { TALES } from './workload';

const OPTIONS = { device: 'cpu', tolerance: 1e-4 } as const;

describeShared('ranks together compute what one rank does', () => {
  it.each(MODELS)('%s over %j', (name, sizes) => goldenRanks(name, sizes, OPTIONS));
});

describeShared('in bfloat16, ranks together compute nearly what one rank does', () => {
  it.each(['kvasir-tales-5m', 'babyllama-tok105', 'babyllama-tok105-fp8', 'babyllama-tok105-awq-int4-g32', 'babyllama-tok105-gptq-int4-g32'])('%s', async (name) => {
    for (const size of [2, 4]) await bfloat16Ranks(name, size, 'cpu');
  });
});

describe('ranks together compute what one rank does (fixtures)', () => {
  it.each(FIXTURES)('%s over %j', (name, sizes) => goldenRanks(name, sizes, OPTIONS));

  it.each(OTHER_HEADS)('%s with %s %d over %j', (name, field, heads, sizes) =>
    changedFixture(name, { [field]: heads }, (dir) => sameAsOneRank(dir, sizes, 64, OPTIONS)),
  );
});

it('ranks draw from the largest logits of each where that is enough', () => exchangesCandidates(TALES.path, [2, 4], 'cpu'));

describeShared('ranks draw from the largest logits of each where that is enough', () => {
  // Of 105 tokens padded to 128, the last of four ranks has 9, the last of eight none; gemma2 has a soft cap.
  it.each([
    ['babyllama-tok105', [2, 4, 8]],
    ['tiny-random/gemma2', [2, 4]],
  ] as const)('%s over %j', (name, sizes) => exchangesCandidates(modelDir(name), sizes, 'cpu'));
});

/** Formats in which two ranks cannot share babyllama-tok105, whose MLP has 352 inputs, and why. */
const REFUSED: Readonly<Record<string, string>> = {
  'fp8, blocks that do not divide the inputs': 'a part of 176 outputs is not a multiple of 32, the outputs of a block',
  'compressed fp8 in blocks': 'a part of 176 outputs is not a multiple of 32, the outputs of a block',
};

describeShared('two ranks share weights of every format', () => {
  it.each(FORMATS)('$name', async ({ name, config, choose }) => {
    const model = new QuantizedModel(config, choose, 2);
    try {
      const refused = REFUSED[name];
      const share = () => ask(model.quantized.dir, 'float32', { numThreads: 1 }, ranks(2));
      if (refused) {
        expect((await expectCode('ERR_KVASIR_QUANTIZATION', share)).message).toContain(refused);
        return;
      }
      const [one, two] = [await ask(model.quantized.dir), await share()];
      expect(largestDifference(two.logprobs, one.logprobs)).toBeLessThan(1e-4);
      expect(two.tokens).toEqual(one.tokens);
    } finally {
      model.remove();
    }
  });
});

describeShared('a model that does not divide is refused when it is built', () => {
  it.each([
    ['babyllama-tok105', 3, 'ERR_KVASIR_LAYER', 'padded vocabulary: 128 is not divisible by 3'],
    ['babyllama-tok105', 16, 'ERR_KVASIR_LAYER', 'attention, query heads: 8 is not divisible by 16'],
    ['stories260K', 8, 'ERR_KVASIR_LAYER', 'model.layers.0.mlp.gate_up_proj, part 0: 172 is not divisible by 8'],
    ['babyllama-tok105-awq-int4-g32', 8, 'ERR_KVASIR_UNSUPPORTED', 'model.layers.0.mlp.gate_up_proj: a part of 44 outputs does not fill words of 8 packed numbers'],
    ['tiny-random/qwen3-moe', 8, 'ERR_KVASIR_LAYER', 'attention, query heads: 4 is not divisible by 8'],
    ['tiny-random/gpt2', 3, 'ERR_KVASIR_LAYER', 'padded vocabulary: 512 is not divisible by 3'],
  ] as const)('%s over %d', async (name, size, code, message) => {
    expect((await expectCode(code, () => build(sharedPath('models', name), size))).message).toContain(message);
  });
});

it('a model of three heads is refused by two ranks', async () => {
  const error = await expectCode('ERR_KVASIR_LAYER', () => build(modelDir('bloom-tiny'), 2));
  expect(error.message).toBe('attention, query heads: 3 is not divisible by 2');
});

/** Must fail, so that there is nothing to free. */
async function build(dir: string, tensorParallelSize: number): Promise<void> {
  const config = await resolveVllmConfig({ model: dir, device: 'cpu' });
  buildModel({ ...config, parallel: { tensorParallelSize, tpRank: 0 } });
}
