import { makeLayers, maybePrefix, Module } from '../../lib/nn/module';
import { ConstantBuffer, Parameter } from '../../lib/nn/parameter';

class Leaf extends Module {
  readonly weight = new Parameter(`${this.prefix}.weight`, [2], 'float32');
  readonly table = new ConstantBuffer([1], 'int32', () => Int32Array.of(1));
}

class Tree extends Module {
  readonly first = new Leaf(maybePrefix(this.prefix, 'first'));
  readonly layers = makeLayers(3, (prefix) => new Leaf(prefix), maybePrefix(this.prefix, 'layers'));
  readonly byName = { a: new Leaf('a'), tied: this.first.weight };
  readonly shared = this.first;
  readonly other = { deep: { ignored: 1 }, list: [1, null, undefined, 'x'] };
  readonly nothing = null;
  readonly map = new Map([['x', 1]]);
}

function dispose(module: Module): void {
  for (const param of module.parameters()) param.dispose();
  for (const buffer of module.buffers()) buffer.dispose();
}

describe('Module', () => {
  it('finds its tree in properties, lists and plain records, each member once, parents first', () => {
    const tree = new Tree('model');
    expect([...tree.modules()].map((m) => m.prefix)).toEqual(['model', 'model.first', 'model.layers.0', 'model.layers.1', 'model.layers.2', 'a']);
    expect([...tree.parameters()].map((p) => p.name).sort()).toEqual(['a.weight', 'model.first.weight', 'model.layers.0.weight', 'model.layers.1.weight', 'model.layers.2.weight']);
    expect([...tree.buffers()]).toHaveLength(5);
    dispose(tree);
  });

  it('a module that refers to its parent does not go round', () => {
    class Child extends Module {
      constructor(readonly parent: Module) {
        super('child');
      }
    }
    class Parent extends Module {
      readonly child = new Child(this);
    }
    expect([...new Parent('').modules()].map((m) => m.prefix)).toEqual(['', 'child']);
  });

  it.each([
    ['', 'model', 'model'],
    ['a', 'model', 'a.model'],
    ['a.b', 'c', 'a.b.c'],
  ])('prefix %p and name %p: %p', (prefix, name, expected) => {
    expect(maybePrefix(prefix, name)).toBe(expected);
  });
});
