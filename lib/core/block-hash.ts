import { hash } from 'node:crypto';

/** Digest of a full block and everything before it. Equal prefixes give equal hashes; the reverse is checked on every hit. */
export type BlockHash = string;

/** Turns the serialized key of a block into its hash. Tests pass a truncated one to force collisions. */
export type BlockHashFn = (key: Uint8Array) => BlockHash;

/** The hash in use: SHA-256, base64. In one call: an object for each of a running batch's blocks costs four times as much. */
export const sha256BlockHash: BlockHashFn = (key) => hash('sha256', key, 'base64');

/**
 * Extra key of block `blockIndex`: what besides the tokens separates prefixes. The salt enters only the first block; later
 * blocks inherit it through their parent (vllm.v1.core.kv_cache_utils.generate_block_hash_extra_keys).
 */
export function blockExtraKey(blockIndex: number, cacheSalt: string | null): string | null {
  return blockIndex === 0 ? cacheSalt : null;
}

/** Hashes the full blocks of a token sequence as a chain over (parent hash, token ids, extra key). */
export class BlockHasher {
  readonly blockSize: number;
  private readonly hashFn: BlockHashFn;

  constructor(blockSize: number, hashFn: BlockHashFn = sha256BlockHash) {
    this.blockSize = blockSize;
    this.hashFn = hashFn;
  }

  /**
   * Hash of the block of `blockSize` tokens that begins at `start`.
   * @param parent hash of the block before it, null for the first block
   */
  hashBlock(parent: BlockHash | null, tokenIds: readonly number[], start: number, extraKey: string | null): BlockHash {
    return this.hashFn(this.serialize(parent ?? '', tokenIds, start, extraKey));
  }

  /** Appends the hashes of the blocks of `tokenIds` that are full and not yet in `hashes`. */
  extend(hashes: BlockHash[], tokenIds: readonly number[], cacheSalt: string | null): void {
    const numFull = Math.floor(tokenIds.length / this.blockSize);
    for (let index = hashes.length; index < numFull; index++) {
      const parent = index === 0 ? null : hashes[index - 1]!;
      hashes.push(this.hashBlock(parent, tokenIds, index * this.blockSize, blockExtraKey(index, cacheSalt)));
    }
  }

  /** Length-prefixed, so that no two different keys have the same bytes: parent, tokens (uint32 LE), then the extra key. */
  private serialize(parent: string, tokenIds: readonly number[], start: number, extraKey: string | null): Uint8Array {
    const extra = extraKey === null ? null : Buffer.from(extraKey, 'utf8');
    const parentBytes = Buffer.byteLength(parent, 'utf8');
    const tokenBytes = 4 * this.blockSize;
    const key = Buffer.allocUnsafe(4 + parentBytes + tokenBytes + 1 + (extra?.length ?? 0));
    let at = key.writeUInt32LE(parentBytes, 0);
    at += key.write(parent, at, 'utf8');
    for (let i = 0; i < this.blockSize; i++) {
      at = key.writeUInt32LE(tokenIds[start + i]!, at);
    }
    at = key.writeUInt8(extra === null ? 0 : 1, at);
    if (extra !== null) key.set(extra, at);
    return key;
  }
}
