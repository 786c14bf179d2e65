import { isUtf8 } from 'node:buffer';
import * as path from 'node:path';

import { describeValue } from '../utils/describe-value';
import { KvasirError, messageOf } from '../utils/errors';
import { readRegularFile, RegularFileError } from '../utils/regular-file';

/** As large as the largest header it could describe. */
const MAX_INDEX_BYTES = 100_000_000;
const MAX_NAME_LENGTH = 255;

/**
 * Reads model.safetensors.index.json: shard file name -> names of the tensors in it, in the order of first mention.
 * A key given twice in the file with two shards is not lost: one of the shards then holds a tensor that no key claims.
 * @throws KvasirError ERR_KVASIR_CHECKPOINT when it is damaged, or a shard's name is not a plain *.safetensors file name.
 */
export async function readWeightMap(file: string): Promise<ReadonlyMap<string, ReadonlySet<string>>> {
  const name = path.basename(file);
  const index = parse(await readIndex(file, name), name);
  const weightMap = isObject(index) ? index.weight_map : undefined;
  if (!isObject(weightMap)) throw bad(name, `expected an object with an object weight_map, received ${describeValue(weightMap ?? index)}`);
  const shards = new Map<string, Set<string>>();
  for (const [tensor, shard] of Object.entries(weightMap)) {
    if (!isShardName(shard)) {
      throw bad(name, `tensor ${describeValue(tensor)}: expected the name of a .safetensors file beside the index, received ${describeValue(shard)}`);
    }
    const claimed = shards.get(shard);
    if (claimed === undefined) shards.set(shard, new Set([tensor]));
    else claimed.add(tensor);
  }
  if (shards.size === 0) throw bad(name, 'expected at least one tensor in weight_map, received none');
  return shards;
}

/** One plain path component: no separator of any platform, no NUL, no drive letter, and not "..". */
function isShardName(value: unknown): value is string {
  return typeof value === 'string' && value.length <= MAX_NAME_LENGTH && /^[^/\\:\0]+\.safetensors$/.test(value);
}

async function readIndex(file: string, name: string): Promise<Buffer> {
  let bytes: Buffer | null;
  try {
    bytes = await readRegularFile(file, MAX_INDEX_BYTES);
  } catch (error) {
    if (!(error instanceof RegularFileError)) throw error;
    throw bad(name, `expected a readable regular file: ${error.message}`, error);
  }
  if (bytes === null) throw bad(name, `expected at most ${MAX_INDEX_BYTES} bytes, received a larger file`);
  if (!isUtf8(bytes)) throw bad(name, 'expected UTF-8 text, received other bytes');
  return bytes;
}

function parse(bytes: Buffer, name: string): unknown {
  try {
    return JSON.parse(bytes.toString('utf8'));
  } catch (error) {
    throw bad(name, `expected JSON: ${messageOf(error)}`, error);
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function bad(name: string, message: string, cause?: unknown): KvasirError {
  return new KvasirError('ERR_KVASIR_CHECKPOINT', `${name}: ${message}`, { cause });
}
