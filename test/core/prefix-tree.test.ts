import { PrefixTree } from '../../lib/core/prefix-tree';
import type { PrefixKey, PrefixNode } from '../../lib/core/prefix-tree';

const key = (tokenIds: number[], parent: PrefixNode | null = null, extraKey: string | null = null): PrefixKey => ({ hash: 'same', parent, tokenIds, start: 0, extraKey });

describe('PrefixTree', () => {
  it('compares tokens, parent and extra key, not only the hash', () => {
    const tree = new PrefixTree(2, 1);
    const a = tree.findOrAdd(key([1, 2], null, 'salt'));
    const b = tree.findOrAdd(key([3, 4], a));
    expect(tree.findOrAdd(key([1, 2], null, 'salt'))).toBe(a);
    expect(tree.find(key([3, 4, 9], a))).toBe(b);
    for (const other of [key([1, 2]), key([1, 3], null, 'salt'), key([3, 4]), key([3, 4], b), key([3, 4], a, 'salt')]) expect(tree.find(other)).toBeNull();
  });

  it('keeps a prefix while a longer one is needed, and drops both with it', () => {
    const tree = new PrefixTree(2, 1);
    const [a, other] = [tree.findOrAdd(key([1, 2])), tree.findOrAdd(key([9, 9]))];
    const b = tree.findOrAdd(key([3, 4], a));
    const c = tree.findOrAdd(key([5, 6], b));
    tree.retain(b);
    tree.retain(c);
    tree.release(c);
    expect(tree.find(key([5, 6], b))).toBeNull();
    expect(tree.find(key([3, 4], a))).toBe(b);
    tree.release(b);
    expect([...tree]).toEqual([other]);
    const again = tree.findOrAdd(key([1, 2]));
    expect(again).not.toBe(a);
  });

  it('an unlinked prefix is not found, nor what goes on from it, and it ends without a trace', () => {
    const tree = new PrefixTree(2, 1);
    const a = tree.findOrAdd(key([1, 2]));
    const b = tree.findOrAdd(key([3, 4], a));
    tree.retain(b);
    tree.unlink(a);
    const fresh = tree.findOrAdd(key([1, 2]));
    expect(fresh).not.toBe(a);
    expect(tree.find(key([3, 4], fresh))).toBeNull();
    tree.release(b);
    expect([...tree]).toEqual([fresh]);
  });

  it.each([0, 1, 2])('drops one of several with the same hash (%i)', (index) => {
    const tree = new PrefixTree(2, 1);
    const nodes = [0, 1, 2].map((token) => tree.findOrAdd(key([token, token])));
    tree.retain(nodes[index]!);
    tree.release(nodes[index]!);
    expect(new Set(tree)).toEqual(new Set(nodes.filter((_, i) => i !== index)));
    tree.clear();
    expect([...tree]).toEqual([]);
  });
});
