import { WeightsMapper } from '../../lib/nn/weights-mapper';
import { ArrayWeight } from '../fixtures/array-weight';

const mapped = (mapper: WeightsMapper, name: string): string | null => mapper.map(name)?.name ?? null;

describe('WeightsMapper', () => {
  it('applies renaming, regex, substring, stacked, prefix, suffix in this order', () => {
    const mapper = new WeightsMapper({
      origToNewRenaming: { a: 'b0.x' },
      origToNewRegex: [[/^b(\d)/, 'c$1']],
      origToNewSubstr: { 'c0': 'd' },
      origToNewStacked: { 'd.': ['pre.e.', 1] },
      origToNewPrefix: { 'pre.': 'model.' },
      origToNewSuffix: { '.x': '.weight' },
    });
    expect(mapper.map('a')).toEqual({ name: 'model.e.weight', shardId: 1 });
  });

  it('replaces the first occurrence of a substring, the last of a suffix, and a prefix only at the start', () => {
    expect(mapped(new WeightsMapper({ origToNewSubstr: { ab: 'x' } }), 'ab.ab')).toBe('x.ab');
    expect(mapped(new WeightsMapper({ origToNewSuffix: { ab: 'x' } }), 'ab.ab')).toBe('ab.x');
    expect(mapped(new WeightsMapper({ origToNewPrefix: { ab: 'x' } }), 'c.ab')).toBe('c.ab');
  });

  it('applies every rule that matches, also to what another one made', () => {
    expect(mapped(new WeightsMapper({ origToNewSubstr: { a: 'b', b: 'c' } }), 'a')).toBe('c');
    expect(mapped(new WeightsMapper({ origToNewRegex: [[/\d/g, 'n'], [/n/, 'm']] }), 'x1.2')).toBe('xm.2');
  });

  it.each([
    [{ origToNewRenaming: { a: null } }],
    [{ origToNewRegex: [[/a/, null]] as const }],
    [{ origToNewSubstr: { a: null } }],
    [{ origToNewPrefix: { a: null } }],
    [{ origToNewSuffix: { a: null } }],
  ])('drops what a rule maps to null: %j', (rules) => {
    expect(new WeightsMapper(rules).map('a')).toBeNull();
    expect(mapped(new WeightsMapper(rules), 'x')).toBe('x');
  });

  it('does not take members of Object for rules', () => expect(mapped(new WeightsMapper({ origToNewRenaming: {} }), 'constructor')).toBe('constructor'));

  it('merges: the second wins', () => {
    const merged = new WeightsMapper({ origToNewSubstr: { a: '1', b: '2' } }).merge(new WeightsMapper({ origToNewSubstr: { b: '3' } }));
    expect(merged.applyList(['a.b', 'b.a'])).toEqual(['1.3', '3.1']);
  });

  it('renames weights, stamps the shard, and remembers the name of the checkpoint', () => {
    const mapper = new WeightsMapper({ origToNewStacked: { q_proj: ['qkv_proj', 'q'] }, origToNewSubstr: { drop: null } });
    const weights = [...mapper.apply([ArrayWeight.counting('q_proj.weight', [4, 2]), ArrayWeight.counting('drop', [1]), ArrayWeight.counting('norm', [2])])];
    expect(weights.map((w) => [w.name, w.originalName, w.shardId])).toEqual([['qkv_proj.weight', 'q_proj.weight', 'q'], ['norm', 'norm', undefined]]);
    const part = weights[0]!.narrow(0, 1, 2);
    expect([part.name, part.originalName, part.shape]).toEqual(['qkv_proj.weight', 'q_proj.weight', [2, 2]]);
  });
});
