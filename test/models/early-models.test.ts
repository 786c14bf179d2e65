import * as path from 'node:path';
import { resolveVllmConfig } from '../../lib/config/resolve';
import type { VllmConfig } from '../../lib/config/vllm';
import { openCheckpoint } from '../../lib/loader/checkpoint';
import { FileWeight } from '../../lib/loader/file-weight';
import { buildModel, disposeModel } from '../../lib/loader/model-loader';
import type { TextGenerationModel } from '../../lib/models/interfaces';
import { renameWeight } from '../../lib/nn/weights-mapper';
import type { LoadedWeight } from '../../lib/nn/parameter';
import { Device, liveStorages } from '../../lib/tensor/device';
import { inScope, TemporaryScope } from '../../lib/tensor/scope';
import { ArrayWeight } from '../fixtures/array-weight';
import { expectCode } from '../fixtures/expect-error';

const fixture = (name: string): string => path.join(__dirname, '../fixtures/models', name);
const configOf = (name: string): Promise<VllmConfig> => resolveVllmConfig({ model: fixture(name), dtype: 'float32', device: 'cpu' });

/** Builds the model and gives it the weights of its checkpoint, changed; `work` sees it loaded. */
async function loading(name: string, change: (weights: LoadedWeight[]) => LoadedWeight[], work: (model: TextGenerationModel) => void, config?: VllmConfig): Promise<void> {
  const device = Device.create('cpu', 1);
  const scope = new TemporaryScope(device);
  const checkpoint = await openCheckpoint(fixture(name));
  const model = buildModel(config ?? (await configOf(name)));
  try {
    for (const param of model.parameters()) param.allocate(device);
    inScope(scope, () => model.loadWeights!(change(Array.from(checkpoint.tensors.values(), (entry) => FileWeight.of(entry)))));
    await device.synchronize();
    work(model);
  } finally {
    disposeModel(model);
    scope.dispose();
    await device.synchronize();
    await checkpoint.close();
    await device.close();
    expect(liveStorages().count).toBe(0);
  }
}

const allLoaded = (model: TextGenerationModel): void => expect([...model.parameters()].filter((param) => !param.isLoaded)).toEqual([]);
const mask = (name: string): ArrayWeight => ArrayWeight.counting(name, [1, 1, 4, 4]);
const named = (weights: LoadedWeight[], rename: (name: string) => string): LoadedWeight[] =>
  weights.map((weight) => renameWeight(weight, { name: rename(weight.name), shardId: undefined }));

describe('names in checkpoints', () => {
  it.each<[string, string, (weights: LoadedWeight[]) => LoadedWeight[]]>([
    ['GPT-2 without its prefix', 'gpt2-inverse-scale', (weights) => named(weights, (name) => name.replace('transformer.', ''))],
    ['GPT-2 with causal masks', 'gpt2-inverse-scale', (weights) => [mask('transformer.h.0.attn.bias'), mask('h.1.attn.masked_bias'), ...weights]],
    ['GPT-2 with the tied head', 'gpt2-inverse-scale', (weights) => [...weights, ArrayWeight.counting('lm_head.weight', [64, 24])]],
    ['BLOOM with its prefix', 'bloom-tiny', (weights) => named(weights, (name) => `transformer.${name}`)],
    ['BLOOM with the tied head', 'bloom-tiny', (weights) => [...weights, ArrayWeight.counting('lm_head.weight', [128, 48])]],
    [
      'GPT-NeoX with buffers',
      'gpt-neox-sequential',
      (weights) => [...['bias', 'masked_bias', 'rotary_emb.inv_freq'].map((name) => mask(`gpt_neox.layers.1.attention.${name}`)), ...weights],
    ],
    ['OPT with its whole prefix', 'opt-post-norm', (weights) => named(weights, (name) => `model.${name}`)],
    ['OPT with the tied head', 'opt-post-norm', (weights) => [...weights, ArrayWeight.counting('lm_head.weight', [64, 16])]],
  ])('%s', (_name, model, change) => loading(model, change, allLoaded));

  it('a missing fused projection is named once', async () => {
    const without = (weights: LoadedWeight[]): LoadedWeight[] => weights.filter(({ name }) => !name.endsWith('h.0.attn.c_attn.weight'));
    const error = await expectCode('ERR_KVASIR_WEIGHTS', () => loading('gpt2-inverse-scale', without, allLoaded));
    expect(error.message).toContain('1 missing: transformer.h.0.attn.c_attn.weight');
  });

  it('an unknown weight is not passed over', async () => {
    const more = (weights: LoadedWeight[]): LoadedWeight[] => [...weights, mask('transformer.h.0.attn.other')];
    const error = await expectCode('ERR_KVASIR_WEIGHTS', () => loading('gpt2-inverse-scale', more, allLoaded));
    expect(error.message).toContain('transformer.h.0.attn.other');
  });
});

describe('tensor parallelism', () => {
  it.each(['opt-post-norm', 'gpt-neox-sequential'])('every rank of two loads its part of %s', async (name) => {
    const config = await configOf(name);
    for (const tpRank of [0, 1]) {
      const rank = { ...config, parallel: { tensorParallelSize: 2, tpRank }, staticForwardContext: new Map() };
      await loading(name, (weights) => weights, allLoaded, rank);
    }
  });

  it('three heads are not divided by two ranks', async () => {
    const config = { ...(await configOf('bloom-tiny')), parallel: { tensorParallelSize: 2, tpRank: 0 } };
    const error = await expectCode('ERR_KVASIR_LAYER', () => buildModel(config));
    expect(error.message).toContain('3 is not divisible by 2');
  });
});

describe('config.json', () => {
  it.each<[string, string, Record<string, unknown>, string]>([
    ['OPT without weights in its norms', 'opt-post-norm', { layer_norm_elementwise_affine: false }, 'ERR_KVASIR_MODEL_CONFIG'],
    ['OPT without ffn_dim', 'opt-post-norm', { ffn_dim: null }, 'ERR_KVASIR_MODEL_CONFIG'],
    ['GPT-2 with an unknown activation', 'gpt2-inverse-scale', { activation_function: 'snake' }, 'ERR_KVASIR_UNSUPPORTED'],
    ['BLOOM without an epsilon', 'bloom-tiny', { layer_norm_epsilon: null }, 'ERR_KVASIR_MODEL_CONFIG'],
    ['GPT-NeoX with a number for a flag', 'gpt-neox-sequential', { use_parallel_residual: 1 }, 'ERR_KVASIR_MODEL_CONFIG'],
  ])('%s is refused', async (_name, model, fields, code) => {
    const config = await configOf(model);
    const changed = { ...config, model: { ...config.model, hfConfig: { ...config.model.hfConfig, ...fields } } };
    await expectCode(code as Parameters<typeof expectCode>[0], () => buildModel(changed));
  });
});
