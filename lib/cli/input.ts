import { readFile } from 'node:fs/promises';
import type { SamplingParams } from '../sampling/params';
import { KvasirError, messageOf } from '../utils/errors';

/** A prompt of an input file: text, or token ids. */
export type InputPrompt = { prompt: string } | { promptTokenIds: number[]; prompt?: string };

/** One line of an input file. */
export interface InputRequest {
  readonly prompt: InputPrompt;
  /** Over the command line's own sampling parameters. */
  readonly params: SamplingParams;
}

const KEYS = ['prompt', 'promptTokenIds', 'params'];

/**
 * Reads a file of one JSON object a line: `{"prompt": "..."}` or `{"promptTokenIds": [...]}`, with optional `"params": {...}`
 * (sampling parameters in camelCase). Empty lines are skipped.
 * @throws KvasirError ERR_KVASIR_CLI naming file and line.
 */
export async function readInputFile(file: string): Promise<InputRequest[]> {
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (error) {
    throw new KvasirError('ERR_KVASIR_CLI', `${file}: expected a readable input file; ${messageOf(error)}`, { cause: error });
  }
  const requests = parseInput(text, file);
  if (requests.length === 0) throw new KvasirError('ERR_KVASIR_CLI', `${file}: expected at least one line with a prompt, received none`);
  return requests;
}

/** {@link readInputFile} on text; `file` is only for messages. */
export function parseInput(text: string, file: string): InputRequest[] {
  const requests: InputRequest[] = [];
  text.replace(/^\uFEFF/, '').split('\n').forEach((line, index) => {
    if (line.trim() !== '') requests.push(parseLine(line, `${file}:${index + 1}`));
  });
  return requests;
}

function parseLine(line: string, where: string): InputRequest {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (error) {
    throw new KvasirError('ERR_KVASIR_CLI', `${where}: expected a JSON object on one line; ${messageOf(error)}`, { cause: error });
  }
  if (!isObject(value)) throw badLine(where, 'a JSON object', value);
  const unknownKey = Object.keys(value).find((key) => !KEYS.includes(key));
  if (unknownKey !== undefined) {
    throw new KvasirError('ERR_KVASIR_CLI', `${where}: expected only the keys ${KEYS.join(', ')}; received "${unknownKey}"`);
  }
  const params = value.params ?? {};
  if (!isObject(params)) throw badLine(where, '"params" to be an object', params);
  return { prompt: promptOf(value, where), params: params as SamplingParams };
}

function promptOf(value: Record<string, unknown>, where: string): InputPrompt {
  const { prompt, promptTokenIds } = value;
  if (prompt !== undefined && typeof prompt !== 'string') throw badLine(where, '"prompt" to be a string', prompt);
  if (promptTokenIds === undefined) {
    if (prompt === undefined) throw badLine(where, '"prompt" or "promptTokenIds"', value);
    return { prompt };
  }
  if (!Array.isArray(promptTokenIds) || !promptTokenIds.every((id) => Number.isSafeInteger(id) && id >= 0)) {
    throw badLine(where, '"promptTokenIds" to be an array of token ids', promptTokenIds);
  }
  return prompt === undefined ? { promptTokenIds } : { promptTokenIds, prompt };
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function badLine(where: string, expected: string, received: unknown): KvasirError {
  const shown = JSON.stringify(received);
  return new KvasirError('ERR_KVASIR_CLI', `${where}: expected ${expected}; received ${shown.length > 80 ? `${shown.slice(0, 80)}...` : shown}`);
}
