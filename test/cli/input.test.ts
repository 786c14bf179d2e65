import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import { parseInput, readInputFile } from '../../lib/cli/input';
import type { KvasirError } from '../../lib/utils/errors';

function errorOf(text: string): KvasirError {
  try {
    parseInput(text, 'in.jsonl');
  } catch (error) {
    return error as KvasirError;
  }
  throw new Error('nothing was thrown');
}

describe('an input file', () => {
  test('holds prompts as text or token ids, with parameters', () => {
    const text = '\uFEFF{"prompt":"a"}\r\n\n{"promptTokenIds":[1,2],"params":{"maxTokens":3}}\n{"prompt":"x","promptTokenIds":[5]}';
    expect(parseInput(text, 'f')).toEqual([
      { prompt: { prompt: 'a' }, params: {} },
      { prompt: { promptTokenIds: [1, 2] }, params: { maxTokens: 3 } },
      { prompt: { prompt: 'x', promptTokenIds: [5] }, params: {} },
    ]);
  });

  test.each([
    ['{"prompt":"a"}\n{"prompt":', 2],
    ['[1]', 1],
    ['null', 1],
    ['\n\n{}', 3],
    ['{"prompt":1}', 1],
    ['{"promptTokenIds":"1"}', 1],
    ['{"promptTokenIds":[1.5]}', 1],
    ['{"promptTokenIds":[-1]}', 1],
    ['{"prompt":"a","params":[]}', 1],
    ['{"prompt":"a","maxTokens":3}', 1],
  ])('%j is refused with its line', (text, line) => {
    const error = errorOf(text);
    expect(error.code).toBe('ERR_KVASIR_CLI');
    expect(error.message.startsWith(`in.jsonl:${line}: expected `)).toBe(true);
  });

  test('must exist and hold a line', async () => {
    const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'kvasir-input-'));
    const empty = path.join(dir, 'empty.jsonl');
    fs.writeFileSync(empty, '\n \n');
    try {
      await expect(readInputFile(empty)).rejects.toMatchObject({ code: 'ERR_KVASIR_CLI' });
      await expect(readInputFile(path.join(dir, 'none.jsonl'))).rejects.toMatchObject({ code: 'ERR_KVASIR_CLI' });
    } finally {
      fs.rmSync(dir, { recursive: true });
    }
  });
});
