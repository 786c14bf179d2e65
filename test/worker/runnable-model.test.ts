import * as path from 'node:path';
import { LLM, ModelRegistry, Module, type ModelClass, type Tensor, type VllmConfig } from '../../lib/index';
import { runnableModel, takesKvCaches } from '../../lib/worker/runnable-model';
import type { TextGenerationModel } from '../../lib/models/interfaces';
import { SamplerOutput } from '../../lib/nn/sampler-output';
import { makeVllmConfig } from '../fixtures/vllm-config';
import { describeShared, sharedPath } from '../fixtures/shared';
import { expectCode } from '../fixtures/expect-error';
import { comparable, readGolden } from '../models/golden-suite';
import { FirstEraBloom, FirstEraLlama, MiddleEraLlama } from '../models/older-models';

const OLDER: readonly [string, ModelClass][] = [
  ['caches and metadata as arguments (vLLM 0.3 to 0.8)', MiddleEraLlama],
  ['a sampler inside the model and PagedAttentionWithRoPE (vLLM 0.1 and 0.2)', FirstEraLlama],
];

describeShared.each(OLDER)('a model with %s', (_name, Model) => {
  it.each(['stories260K', 'tiny-random/llama-rope-llama3'])('generates what the reference does: %s', async (name) => {
    await withModel(Model, name, async (llm) => {
      const { greedy } = readGolden(name);
      const maxTokens = Math.max(...greedy.map((row) => row.output_ids.length));
      const outputs = await llm.generate(greedy.map((row) => ({ promptTokenIds: row.prompt_ids })), { temperature: 0, maxTokens, ignoreEos: true, logprobs: 1 });
      greedy.forEach((row, i) => expect(outputs[i]!.outputs[0]!.tokenIds.slice(0, comparable(row).length)).toEqual(comparable(row)));
    });
  });
});

it('a model with PagedAttentionWithALiBi (vLLM 0.1 to 0.3) generates what the reference does', async () => {
  const warn = jest.spyOn(process, 'emitWarning').mockImplementation(() => undefined);
  ModelRegistry.registerModel('BloomForCausalLM', FirstEraBloom);
  warn.mockRestore();
  const { greedy } = readGolden('bloom-tiny');
  const llm = await LLM.create({ model: path.join(__dirname, '../fixtures/models/bloom-tiny'), dtype: 'float32', device: 'cpu' });
  try {
    const maxTokens = Math.max(...greedy.map((row) => row.output_ids.length));
    const outputs = await llm.generate(greedy.map((row) => ({ promptTokenIds: row.prompt_ids })), { temperature: 0, maxTokens, ignoreEos: true });
    expect(greedy.length).toBeGreaterThan(0);
    greedy.forEach((row, i) => expect(outputs[i]!.outputs[0]!.tokenIds.slice(0, comparable(row).length)).toEqual(comparable(row)));
  } finally {
    await llm.close();
  }
});

/** Registered for the architecture of the checkpoint; the registration ends with the test file's own module registry. */
async function withModel(Model: ModelClass, name: string, work: (llm: LLM) => Promise<void>): Promise<void> {
  const warn = jest.spyOn(process, 'emitWarning').mockImplementation(() => undefined);
  ModelRegistry.registerModel('LlamaForCausalLM', Model);
  warn.mockRestore();
  const llm = await LLM.create({ model: sharedPath('models', name), dtype: 'float32', device: 'cpu' });
  try {
    await work(llm);
  } finally {
    await llm.close();
  }
}

class Bare extends Module {
  forward(inputIds: Tensor, _positions: Tensor): Tensor {
    return inputIds;
  }
}

class Marked extends Module {
  static readonly forwardStyle = 'kvCaches';

  forward(a: Tensor, _b: Tensor, _c: unknown, _d: unknown): Tensor {
    return a;
  }
}

class Renamed extends Module {
  forward(a: Tensor, _b: Tensor, kv_caches: readonly Tensor[] = []): Tensor {
    return kv_caches[0] ?? a;
  }
}

class WithTop extends Bare {
  computeLogits(hiddenStates: Tensor): Tensor {
    return hiddenStates;
  }

  computeTopTokens(hiddenStates: Tensor, _k: number): Tensor {
    return hiddenStates;
  }
}

class OtherLogits extends WithTop {
  override computeLogits(hiddenStates: Tensor): Tensor {
    return hiddenStates;
  }
}

class OtherTop extends OtherLogits {
  override computeTopTokens(hiddenStates: Tensor, _k: number): Tensor {
    return hiddenStates;
  }
}

/** Its sampler computes the logits. */
class Sampling extends WithTop {
  override forward(inputIds: Tensor): never {
    return new SamplerOutput(inputIds, (hiddenStates) => hiddenStates) as never;
  }
}

const asModel = (model: Module): TextGenerationModel => model as TextGenerationModel;
const config: VllmConfig = makeVllmConfig();

describe('takesKvCaches', () => {
  it('goes by the name of the third parameter', () => {
    expect(takesKvCaches(asModel(new Bare('')))).toBe(false);
    expect(takesKvCaches(asModel(new Renamed('')))).toBe(true);
    expect(takesKvCaches(Object.create(MiddleEraLlama.prototype) as TextGenerationModel)).toBe(true);
  });

  it('or by what the class says, for code whose names are lost', () => expect(takesKvCaches(asModel(new Marked('')))).toBe(true));
});

describe('runnableModel', () => {
  it('refuses what is no model', async () => {
    const error = await expectCode('ERR_KVASIR_REGISTRY', () => runnableModel({} as TextGenerationModel, config));
    expect(error.message).toContain('lacks forward and the members of Module');
  });

  it('refuses logits of a model that has neither computeLogits nor a sampler', async () => {
    const runnable = runnableModel(asModel(new Bare('')), config);
    await expectCode('ERR_KVASIR_REGISTRY', () => runnable.computeLogits(null as unknown as Tensor));
  });

  it.each([
    ['without the method', Bare, false],
    ['with it', WithTop, true],
    ['derived, with other logits', OtherLogits, false],
    ['derived from that, with both', OtherTop, true],
    ['with a sampler', Sampling, false],
  ] as const)('a model %s: whether it is asked for the largest logits', (_name, Model, expected) => {
    const runnable = runnableModel(asModel(new Model('')), config);
    runnable.forward(null as unknown as Tensor, null as unknown as Tensor);
    expect(runnable.hasTopTokens()).toBe(expected);
  });
});
