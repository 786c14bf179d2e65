import { readFile, stat } from 'node:fs/promises';
import * as path from 'node:path';
import { KvasirError, messageOf } from '../utils/errors';

const MIB = 1024 * 1024;

/** Largest sizes read, in bytes: several times what the largest known files have. */
export const FILE_LIMITS = {
  'tokenizer.json': 256 * MIB,
  'tokenizer_config.json': 32 * MIB,
  'special_tokens_map.json': 4 * MIB,
  'chat_template.jinja': MIB,
} as const;

export type TokenizerFile = keyof typeof FILE_LIMITS;

function hasCode(error: unknown, ...codes: string[]): boolean {
  return codes.includes(String((error as { code?: unknown } | null)?.code));
}

/** @throws KvasirError ERR_KVASIR_MODEL_NOT_FOUND when `dir` is no directory. */
export async function checkModelDirectory(dir: string): Promise<void> {
  let found = 'a file';
  try {
    if ((await stat(dir)).isDirectory()) return;
  } catch (error) {
    found = messageOf(error);
  }
  throw new KvasirError('ERR_KVASIR_MODEL_NOT_FOUND', `expected ${JSON.stringify(dir)} to be a directory with a tokenizer, received ${found}`);
}

/**
 * The text of a tokenizer file; null when there is none.
 * @throws KvasirError ERR_KVASIR_TOKENIZER when it is no regular file, too large, or cannot be read.
 */
export async function readTokenizerFile(dir: string, name: TokenizerFile): Promise<string | null> {
  const file = path.join(dir, name);
  try {
    const info = await stat(file);
    if (!info.isFile()) throw new KvasirError('ERR_KVASIR_TOKENIZER', `expected ${file} to be a regular file`);
    if (info.size > FILE_LIMITS[name]) {
      throw new KvasirError('ERR_KVASIR_TOKENIZER', `expected ${file} to have at most ${FILE_LIMITS[name]} bytes, received ${info.size}`);
    }
    return await readFile(file, 'utf8');
  } catch (error) {
    if (error instanceof KvasirError) throw error;
    if (hasCode(error, 'ENOENT', 'ENOTDIR')) return null;
    throw new KvasirError('ERR_KVASIR_TOKENIZER', `cannot read ${file}: ${messageOf(error)}`, { cause: error });
  }
}

/**
 * A JSON object from a file; null when there is none.
 * @throws KvasirError ERR_KVASIR_TOKENIZER when it is not a JSON object.
 */
export async function readTokenizerJson(dir: string, name: TokenizerFile): Promise<Record<string, unknown> | null> {
  const text = await readTokenizerFile(dir, name);
  if (text === null) return null;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new KvasirError('ERR_KVASIR_TOKENIZER', `${path.join(dir, name)} is not valid JSON: ${messageOf(error)}`, { cause: error });
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new KvasirError('ERR_KVASIR_TOKENIZER', `expected ${path.join(dir, name)} to hold a JSON object`);
  }
  return value as Record<string, unknown>;
}
