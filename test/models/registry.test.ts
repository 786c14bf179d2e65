import * as fs from 'node:fs';
import * as path from 'node:path';
import type { ModelClass } from '../../lib/models/interfaces';
import { LlamaForCausalLM } from '../../lib/models/llama';
import { ModelRegistry, resolveModelClass } from '../../lib/models/registry';
import { expectCode } from '../fixtures/expect-error';
import { makeTempDir } from '../fixtures/safetensors-file';

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
    for (const name of names) expect(error.message).toContain(name);
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

  it.each<[unknown, unknown]>([
    ['', class {}],
    [7, class {}],
    ['Test', 'no-colon'],
    ['Test', ':Class'],
    ['Test', 'module:'],
    ['Test', null],
    ['Test', {}],
  ])('refuses the registration of %p as %p', async (name, model) => {
    await expectCode('ERR_KVASIR_REGISTRY', () => ModelRegistry.registerModel(name as string, model as ModelClass));
  });
});
