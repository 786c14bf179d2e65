import * as fs from 'node:fs';
import * as path from 'node:path';
import type { VllmConfig } from '../../lib/config/vllm';
import { embedInputIds, type ModelClass } from '../../lib/models/interfaces';
import { LlamaForCausalLM } from '../../lib/models/llama';
import { initRegisteredModel, ModelRegistry, resolveModelClass } from '../../lib/models/registry';
import { Module } from '../../lib/nn/module';
import type { Tensor } from '../../lib/tensor/tensor';
import { expectCode } from '../fixtures/expect-error';
import { makeTempDir } from '../fixtures/safetensors-file';
import { makeVllmConfig } from '../fixtures/vllm-config';

describe('resolveModelClass', () => {
  it('takes the first architecture that is supported', () => {
    expect(resolveModelClass(['LlamaForCausalLM'])).toBe(LlamaForCausalLM);
    expect(resolveModelClass(['NotAModel', 'LlamaForCausalLM'])).toBe(LlamaForCausalLM);
  });

  it('finds a class with the members that a worker needs for every supported architecture', () => {
    const names = ModelRegistry.getSupportedArchs();
    expect(names).toContain('LlamaForCausalLM');
    for (const name of names) {
      const { prototype } = resolveModelClass([name]);
      for (const member of ['embedInputIds', 'forward', 'computeLogits', 'loadWeights', 'parameters'] as const) expect(prototype[member]).toBeInstanceOf(Function);
    }
  });

  it.each([[['NotAModel', 'NorThis']], [[]], [['constructor']], [['toString']]])('%j is refused with the list of those that are supported', async (names) => {
    const error = await expectCode('ERR_KVASIR_UNSUPPORTED_MODEL', () => resolveModelClass(names));
    expect(error.message).toContain('LlamaForCausalLM');
    for (const name of names.length ? names : ['(none)']) expect(error.message).toContain(name);
  });
});

describe('ModelRegistry', () => {
  const dir = makeTempDir();
  const file = path.join(dir, 'my-model.js');
  const broken = path.join(dir, 'broken.js');

  beforeAll(() => {
    fs.writeFileSync(file, 'exports.MyModel = class MyModel {}; exports.number = 1;');
    fs.writeFileSync(broken, 'throw new Error("no such luck");');
  });
  afterAll(() => fs.rmSync(dir, { recursive: true, force: true }));

  it('takes a class, and another one instead of it', () => {
    const [first, second] = [class {}, class {}] as unknown as [ModelClass, ModelClass];
    ModelRegistry.registerModel('TestDirect', first);
    expect(resolveModelClass(['TestDirect'])).toBe(first);
    ModelRegistry.registerModel('TestDirect', second);
    expect(resolveModelClass(['TestDirect'])).toBe(second);
    expect(ModelRegistry.getSupportedArchs()).toContain('TestDirect');
  });

  it('a registration stands before a built-in model of the same name', () => {
    const mine = class {} as unknown as ModelClass;
    jest.isolateModules(() => {
      const fresh = require('../../lib/models/registry') as typeof import('../../lib/models/registry');
      fresh.ModelRegistry.registerModel('LlamaForCausalLM', mine);
      expect(fresh.resolveModelClass(['LlamaForCausalLM'])).toBe(mine);
      expect(fresh.ModelRegistry.getSupportedArchs().filter((n) => n === 'LlamaForCausalLM')).toHaveLength(1);
    });
  });

  it('replacing a model is a process warning that names it, registering one is none', () => {
    const warnings = jest.spyOn(process, 'emitWarning').mockImplementation(() => undefined);
    try {
      ModelRegistry.registerModel('TestWarned', class {} as unknown as ModelClass);
      expect(warnings).not.toHaveBeenCalled();
      ModelRegistry.registerModel('TestWarned', `${file}:MyModel`);
      expect(warnings.mock.calls).toEqual([[expect.stringContaining('TestWarned'), { code: 'KVASIR_MODEL_REPLACED' }]]);
      expect(resolveModelClass(['TestWarned']).name).toBe('MyModel');
    } finally {
      warnings.mockRestore();
    }
  });

  it('loads "module:Class" when a model asks for it', () => {
    ModelRegistry.registerModel('TestLazy', `${file}:MyModel`);
    expect(resolveModelClass(['TestLazy']).name).toBe('MyModel');
  });

  it.each<[string, string, string]>([
    ['a module that does not exist', path.join(dir, 'none.js') + ':MyModel', 'none.js'],
    ['a module that throws', `${broken}:MyModel`, 'no such luck'],
    ['a class that it has not', `${file}:Other`, 'no class Other'],
    ['a value that is no class', `${file}:number`, 'no class number'],
  ])('%s is an error when a model asks for it', async (_name, reference, message) => {
    ModelRegistry.registerModel('TestBroken', reference);
    const error = await expectCode('ERR_KVASIR_REGISTRY', () => resolveModelClass(['TestBroken']));
    expect(error.message).toContain('TestBroken');
    expect(error.message).toContain(message);
  });

  it('a module is not loaded before a model asks for it', () => {
    const touched = path.join(dir, 'touched');
    const lazy = path.join(dir, 'lazy.js');
    fs.writeFileSync(lazy, `require('fs').writeFileSync(${JSON.stringify(touched)}, ''); exports.Mine = class {};`);
    ModelRegistry.registerModel('TestUntouched', `${lazy}:Mine`);
    expect(ModelRegistry.getSupportedArchs()).toContain('TestUntouched');
    expect(fs.existsSync(touched)).toBe(false);
    resolveModelClass(['TestUntouched']);
    expect(fs.existsSync(touched)).toBe(true);
  });

  it.each<[unknown, unknown]>([
    ['', class {}],
    [7, class {}],
    [null, class {}],
    [['A', 'B'], class {}],
    ['Test', ''],
    ['Test', 'no-colon'],
    ['Test', 'module:Class:more'],
    ['Test', 'C:\\models\\mine.js'],
    ['Test', ':Class'],
    ['Test', 'module:'],
    ['Test', null],
    ['Test', undefined],
    ['Test', {}],
    ['Test', () => null],
  ])('refuses the registration of %p as %p', async (name, model) => {
    await expectCode('ERR_KVASIR_REGISTRY', () => ModelRegistry.registerModel(name as string, model as ModelClass));
  });
});

describe('initRegisteredModel', () => {
  const config = makeVllmConfig();
  const build = (Model: unknown) => {
    ModelRegistry.registerModel('TestInit', Model as ModelClass);
    return initRegisteredModel(config, 'inner', ['NotAModel', 'TestInit']);
  };
  let warnings: jest.SpyInstance;
  beforeEach(() => void (warnings = jest.spyOn(process, 'emitWarning').mockImplementation(() => undefined)));
  afterEach(() => warnings.mockRestore());

  it('builds the first architecture that is supported, under its prefix', () => {
    class Mine extends Module {
      constructor(
        readonly given: VllmConfig,
        prefix: string,
      ) {
        super(prefix);
      }
      forward(): void {
        // what a model needs to have
      }
    }
    const model = build(Mine) as unknown as Mine;
    expect(model).toBeInstanceOf(Mine);
    expect(model.given).toBe(config);
    expect(model.prefix).toBe('inner');
  });

  it.each<[string, unknown, RegExp]>([
    ['nothing of a model', class Empty {}, /Empty lacks forward and the members of Module/],
    ['no forward', class Still extends Module {}, /Still lacks forward:/],
    ['a forward, but not of a Module', class Alone { forward(): void {} }, /Alone lacks the members of Module/],
    ['the members of a Module that is not this package\'s', class Foreign { forward(): void {} modules(): void {} }, /Foreign is made of modules of another copy of the package/],
  ])('refuses a class with %s', async (_what, Model, message) => {
    const error = await expectCode('ERR_KVASIR_REGISTRY', () => build(Model));
    expect(error.message).toMatch(message);
  });
});

describe('embedInputIds', () => {
  const ids = { name: 'ids' } as unknown as Tensor;

  it('asks by the name that the model has', () => {
    const embeddings = { name: 'embeddings' } as unknown as Tensor;
    const embed = jest.fn(() => embeddings);
    expect(embedInputIds({ embedInputIds: embed }, ids)).toBe(embeddings);
    expect(embedInputIds({ getInputEmbeddings: embed }, ids)).toBe(embeddings);
    expect(embed.mock.calls).toEqual([[ids], [ids]]);
  });

  it('CausalLM answers by both', () => {
    const embed = jest.fn(() => ids);
    const model = Object.assign(Object.create(LlamaForCausalLM.prototype) as LlamaForCausalLM, { embedInputIds: embed });
    expect(model.getInputEmbeddings(ids)).toBe(ids);
    expect(embed).toHaveBeenCalledWith(ids);
  });

  it('a model with neither is an error that says so', async () => {
    class Mute {}
    const error = await expectCode('ERR_KVASIR_REGISTRY', () => embedInputIds(new Mute(), ids));
    expect(error.message).toContain('Mute');
  });
});
