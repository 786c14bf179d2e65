import * as path from 'node:path';
import { LLM, ModelRegistry, type LoadedWeight, type LoadWeightsOptions, type ModelClass, type StackedParam } from '../../lib/index';
import { LlamaForCausalLM } from '../../lib/models/llama';
import golden from '../fixtures/kvasir-tales-5m-golden.json';
import { expectCode } from '../fixtures/expect-error';
import { ModelCopy } from '../integration/model-copy';

const STACKED: readonly StackedParam[] = [
  ['.qkv_proj.', '.q_proj.', 'q'],
  ['.qkv_proj.', '.k_proj.', 'k'],
  ['.qkv_proj.', '.v_proj.', 'v'],
  ['.gate_up_proj.', '.gate_proj.', 0],
  ['.gate_up_proj.', '.up_proj.', 1],
];

/** Says which weights are parts of fused ones, as models in vLLM do. */
class StackedLlama extends LlamaForCausalLM {
  protected override loadOptions(): LoadWeightsOptions {
    return { ...super.loadOptions(), stackedParamsMapping: STACKED };
  }
}

/** Loads everything by a loop of its own, as models of vLLM's first years do. */
class LoopLlama extends LlamaForCausalLM {
  override loadWeights(weights: Iterable<LoadedWeight>): Set<string> {
    const params = this.namedParameters();
    const loaded = new Set<string>();
    for (const weight of weights) {
      const stacked = STACKED.find(([, part]) => weight.name.includes(part));
      const name = stacked ? weight.name.replace(stacked[1], stacked[0]) : weight.name;
      params.get(name)?.load(weight, stacked ? stacked[2] : null);
      loaded.add(name);
    }
    return loaded;
  }
}

/** Forgets a layer. */
class ForgetfulLlama extends LoopLlama {
  override loadWeights(weights: Iterable<LoadedWeight>): Set<string> {
    return super.loadWeights([...weights].filter((weight) => weight.name !== 'model.layers.2.mlp.up_proj.weight'));
  }
}

let copy: ModelCopy;
beforeAll(() => {
  copy = new ModelCopy(path.join(__dirname, '../../examples/models/kvasir-tales-5m'));
  for (const Model of [StackedLlama, LoopLlama, ForgetfulLlama]) ModelRegistry.registerModel(Model.name, Model as ModelClass);
});
afterAll(() => copy.remove());

async function open(architecture: string): Promise<LLM> {
  copy.editJson('config.json', (config) => Object.assign(config, { architectures: [architecture] }));
  return LLM.create({ model: copy.dir, dtype: 'float32', device: 'cpu' });
}

it.each(['StackedLlama', 'LoopLlama'])('%s has all weights', async (architecture) => {
  const llm = await open(architecture);
  try {
    const outputs = await llm.generate(golden.greedy.map((row) => ({ promptTokenIds: row.prompt_ids })), { temperature: 0, topP: 1, maxTokens: 12 });
    expect(outputs.map((output) => output.outputs[0]!.tokenIds)).toEqual(golden.greedy.map((row) => row.output_ids.slice(0, 12)));
  } finally {
    await llm.close();
  }
});

it('what a loop of one\'s own leaves out is an error that names it', async () => {
  const error = await expectCode('ERR_KVASIR_WEIGHTS', () => open('ForgetfulLlama'));
  expect(error.message).toContain('1 missing: model.layers.2.mlp.up_proj.weight');
});
