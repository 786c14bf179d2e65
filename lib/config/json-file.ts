import { isUtf8 } from 'node:buffer';
import * as path from 'node:path';

import { describeValue } from '../utils/describe-value';
import { KvasirError, messageOf } from '../utils/errors';
import { readRegularFile, RegularFileError } from '../utils/regular-file';
import { isPlainObject, modelConfigError, type RawConfig } from './hf-fields';

/** Far above any real config.json; a larger file is not one. */
const MAX_CONFIG_BYTES = 10_000_000;
/** Deeper nesting would overflow recursive readers and the structured clone to a worker thread. */
const MAX_DEPTH = 64;

/**
 * Reads a JSON object of a model directory.
 * @throws KvasirError ERR_KVASIR_MODEL_NOT_FOUND when the file does not exist, ERR_KVASIR_MODEL_CONFIG when it is not a
 * regular UTF-8 file of at most 10 MB that holds one JSON object of finite numbers, nested at most 64 deep.
 */
export async function readConfigFile(file: string): Promise<RawConfig> {
  const name = path.basename(file);
  let bytes: Buffer | null;
  try {
    bytes = await readRegularFile(file, MAX_CONFIG_BYTES);
  } catch (error) {
    if (!(error instanceof RegularFileError)) throw error;
    if (error.problem !== 'missing') throw modelConfigError(`${name}: ${error.message}`, error);
    throw new KvasirError('ERR_KVASIR_MODEL_NOT_FOUND', `expected a file ${file}, which does not exist`, { cause: error });
  }
  if (bytes === null) throw modelConfigError(`${name}: expected at most ${MAX_CONFIG_BYTES} bytes, received a larger file`);
  return parseConfigText(bytes, name);
}

/** {@link readConfigFile}, null when the file does not exist. */
export async function readOptionalConfigFile(file: string): Promise<RawConfig | null> {
  try {
    return await readConfigFile(file);
  } catch (error) {
    if (error instanceof KvasirError && error.code === 'ERR_KVASIR_MODEL_NOT_FOUND') return null;
    throw error;
  }
}

function parseConfigText(bytes: Buffer, name: string): RawConfig {
  if (!isUtf8(bytes)) throw modelConfigError(`${name}: expected UTF-8 text, received other bytes`);
  const text = bytes.toString('utf8');
  if (exceedsDepth(text)) throw modelConfigError(`${name}: expected JSON nested at most ${MAX_DEPTH} deep, received deeper`);
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (error) {
    throw modelConfigError(`${name}: expected JSON: ${messageOf(error)}`, error);
  }
  if (!isPlainObject(parsed)) throw modelConfigError(`${name}: expected a JSON object, received ${describeValue(parsed)}`);
  const infinite = findNonFinite(parsed, '');
  if (infinite !== null) throw modelConfigError(`${name}: ${infinite}: expected a finite number, received one beyond double precision`);
  return parsed;
}

/** Counts brackets outside strings, without building anything. */
function exceedsDepth(text: string): boolean {
  let depth = 0;
  let inString = false;
  for (let i = 0; i < text.length; i += 1) {
    const char = text[i];
    if (inString) {
      if (char === '\\') i += 1;
      else if (char === '"') inString = false;
    } else if (char === '"') {
      inString = true;
    } else if (char === '{' || char === '[') {
      depth += 1;
      if (depth > MAX_DEPTH) return true;
    } else if (char === '}' || char === ']') {
      depth -= 1;
    }
  }
  return false;
}

/** JSON.parse reads 1e999 as Infinity. Recursion is bounded by {@link MAX_DEPTH}. */
function findNonFinite(value: unknown, where: string): string | null {
  if (typeof value === 'number') return Number.isFinite(value) ? null : where;
  if (typeof value !== 'object' || value === null) return null;
  for (const [key, child] of Object.entries(value)) {
    const found = findNonFinite(child, where === '' ? key : `${where}.${key}`);
    if (found !== null) return found;
  }
  return null;
}
