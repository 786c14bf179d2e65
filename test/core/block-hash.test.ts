import { createHash } from 'node:crypto';
import { BlockHasher, blockExtraKey, sha256BlockHash } from '../../lib/core/block-hash';
import { range } from './fixtures/requests';

describe('BlockHasher', () => {
  const hasher = new BlockHasher(4);
  const hashes = (tokenIds: number[], salt: string | null = null): string[] => {
    const result: string[] = [];
    hasher.extend(result, tokenIds, salt);
    return result;
  };

  it('hashes full blocks only', () => {
    expect(hashes(range(3))).toHaveLength(0);
    expect(hashes(range(4))).toHaveLength(1);
    expect(hashes(range(11))).toHaveLength(2);
  });

  it('gives the same hashes whether tokens arrive at once or one by one', () => {
    const tokens = range(21, 100);
    const grown: string[] = [];
    for (let n = 1; n <= tokens.length; n++) hasher.extend(grown, tokens.slice(0, n), 'salt');
    expect(grown).toEqual(hashes(tokens, 'salt'));
  });

  it('chains: a block depends on everything before it', () => {
    const a = hashes([1, 2, 3, 4, 9, 9, 9, 9]);
    const b = hashes([1, 2, 3, 5, 9, 9, 9, 9]);
    expect(b[0]).not.toBe(a[0]);
    expect(b[1]).not.toBe(a[1]);
    expect(hashes([9, 9, 9, 9])[0]).not.toBe(a[1]);
  });

  it('separates salts in the first block, and so in all blocks', () => {
    const variants = [null, '', 'a', 'b'].map((salt) => hashes(range(8), salt));
    expect(new Set(variants.map((v) => v[0])).size).toBe(4);
    expect(new Set(variants.map((v) => v[1])).size).toBe(4);
    expect(blockExtraKey(0, 'a')).toBe('a');
    expect(blockExtraKey(1, 'a')).toBeNull();
  });

  it('is SHA-256 over parent length, parent, tokens, and a flag with the extra key', () => {
    const key = Buffer.from([0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 255, 255, 255, 255, 1, 0x78]);
    const expected = createHash('sha256').update(key).digest('base64');
    expect(hasher.hashBlock(null, [1, 256, 65536, 0xffffffff], 0, 'x')).toBe(expected);
    expect(sha256BlockHash(key)).toBe(expected);
  });

  it('takes another hash function', () => {
    const weak = new BlockHasher(4, () => 'same');
    const result: string[] = [];
    weak.extend(result, range(8), null);
    expect(result).toEqual(['same', 'same']);
  });
});
