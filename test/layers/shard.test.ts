import { divide, headShard, mergedShard, qkvShard, rankSpan, vocabShard } from '../../lib/layers/shard';
import { expectCode } from '../fixtures/expect-error';

describe('shard math', () => {
  it.each([
    { tp: 1, numHeads: 32, numKvHeads: 8, kvReplicas: 1, rows: 6144 },
    { tp: 4, numHeads: 8, numKvHeads: 2, kvReplicas: 1, rows: 1536 },
    { tp: 8, numHeads: 4, numKvHeads: 1, kvReplicas: 1, rows: 768 },
    { tp: 16, numHeads: 2, numKvHeads: 1, kvReplicas: 2, rows: 512 },
  ])('32 heads, 8 KV heads of 128 on $tp ranks', ({ tp, rows, ...heads }) => {
    const shard = headShard(32, 8, tp, 'qkv');
    expect(shard).toEqual(heads);
    const sizes = (['q', 'k', 'v'] as const).map((id) => qkvShard(id, shard, 128, 128, 0).dest.size);
    expect(sizes.reduce((a, b) => a + b)).toBe(rows);
  });

  it('pairs of 16 ranks share a KV head', () => {
    const heads = headShard(32, 8, 16, 'qkv');
    const keyRows = [0, 1, 2, 15].map((rank) => qkvShard('k', heads, 128, 128, rank).source);
    expect(keyRows).toEqual([0, 0, 128, 7 * 128].map((first) => ({ start: first, size: 128 })));
    expect(qkvShard('q', heads, 128, 128, 15)).toEqual({ source: { start: 15 * 256, size: 256 }, dest: { start: 0, size: 256 } });
  });

  it('v rows lie behind q and k, in its own head size', () => {
    const heads = headShard(8, 2, 2, 'qkv');
    expect(qkvShard('k', heads, 16, 10, 1)).toEqual({ source: { start: 16, size: 16 }, dest: { start: 64, size: 16 } });
    expect(qkvShard('v', heads, 16, 10, 1)).toEqual({ source: { start: 10, size: 10 }, dest: { start: 80, size: 10 } });
  });

  it.each([
    ['12 ranks divide neither 32 heads', () => headShard(32, 8, 12, 'qkv')],
    ['12 ranks are no multiple of 8 KV heads', () => headShard(24, 8, 12, 'qkv')],
    ['2 ranks do not divide 3 KV heads', () => headShard(6, 3, 2, 'qkv')],
    ['3 ranks do not divide 64 columns', () => rankSpan(64, 1, 3, 'columns')],
    ['2 ranks do not divide a part of 3', () => mergedShard([4, 3], 1, 0, 2, 'gate_up')],
    ['3 ranks do not divide 1024 rows of vocabulary', () => vocabShard(1010, 1010, 64, 0, 3)],
    ['0 ranks', () => divide(4, 0, 'x')],
  ])('%s', async (_name, action) => {
    const error = await expectCode('ERR_KVASIR_LAYER', action);
    expect(error.message).toMatch(/ is not divisible by \d+$/);
  });

  it('merged parts: source spans in their checkpoint tensor, destinations one behind the other', () => {
    expect(mergedShard([8, 4, 12], 0, 1, 4, 'm')).toEqual({ source: { start: 2, size: 2 }, dest: { start: 0, size: 2 } });
    expect(mergedShard([8, 4, 12], 2, 3, 4, 'm')).toEqual({ source: { start: 9, size: 3 }, dest: { start: 3, size: 3 } });
  });

  it.each([-1, 3, 0.5, NaN])('merged shard id %p is out of range', async (id) => {
    const error = await expectCode('ERR_KVASIR_LAYER', () => mergedShard([8, 4, 12], id, 0, 1, 'm'));
    expect(error.message).toContain('expected 0..2');
  });

  it('a vocabulary of 1010 and 16 added tokens on 2 ranks', () => {
    expect(vocabShard(1026, 1010, 64, 0, 2)).toEqual({ rows: 544, baseRows: 512, base: { start: 0, size: 512 }, added: { start: 1010, size: 16 } });
    expect(vocabShard(1026, 1010, 64, 1, 2)).toEqual({ rows: 544, baseRows: 512, base: { start: 512, size: 498 }, added: { start: 1026, size: 0 } });
  });

  it('a rank may hold nothing but padding', () => {
    expect(vocabShard(10, 10, 64, 3, 4)).toEqual({ rows: 16, baseRows: 16, base: { start: 10, size: 0 }, added: { start: 10, size: 0 } });
  });
});
