import * as fs from 'node:fs';
import * as path from 'node:path';
import * as library from '../../lib/index';
import { ERRORS } from '../../lib/utils/errors';

const root = path.resolve(__dirname, '../..');
const page = fs.readFileSync(path.join(root, 'docs/adding-a-model.md'), 'utf8');
const GAP = '// ...';

/** The ```ts blocks: the file that the first line names, and the runs of lines between gaps. */
const quotes = [...page.matchAll(/```(\w*)\n([\s\S]*?)```/g)].map(([, language, block]) => {
  const [first, ...lines] = block!.trimEnd().split('\n');
  const runs: string[][] = [[]];
  for (const line of lines) if (line.trim() === GAP) runs.push([]);
    else runs.at(-1)!.push(line);
  return { language: language!, file: /^\/\/ ([\w./-]+)$/.exec(first!)?.[1] ?? null, runs };
});

/** Where a run of lines begins in others, at or after an index. */
function indexOfRun(lines: readonly string[], run: readonly string[], from: number): number {
  for (let i = from; i + run.length <= lines.length; i++) if (run.every((line, k) => lines[i + k] === line)) return i;
  return -1;
}

/** Names of the page that look like a class or function, in backticks. */
const names = [...new Set([...page.replace(/```[\s\S]*?```/g, '').matchAll(/`([A-Za-z]\w*)(?:\([^`]*\))?`/g)].map(([, name]) => name!))];

const libText = fs
  .readdirSync(path.join(root, 'lib'), { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.ts'))
  .map((file) => fs.readFileSync(path.join(root, 'lib', file), 'utf8'))
  .join('\n');
const testText = ['models/golden-suite.ts', 'models/composite.test.ts', 'worker/runnable-model.test.ts'].map((file) => fs.readFileSync(path.join(root, 'test', file), 'utf8')).join('\n');

describe('docs/adding-a-model.md', () => {
  test('all of its code is quoted from files', () => {
    expect(quotes.length).toBeGreaterThan(10);
    expect(quotes.filter(({ language, file }) => language !== 'ts' || file === null)).toEqual([]);
  });

  test.each(quotes.map(({ file, runs }) => ({ file: file!, first: runs.flat()[0]!.trim(), runs })))('$file has, line by line: $first', ({ file, runs }) => {
    const lines = fs.readFileSync(path.join(root, file), 'utf8').split('\n');
    let at = 0;
    for (const run of runs) {
      const found = indexOfRun(lines, run, at);
      if (found < 0) throw new Error(`${file} has no such lines (any more):\n${run.join('\n')}`);
      at = found + run.length;
    }
  });

  test('a quotation that is not in the file would be found', () => {
    expect(indexOfRun(['a', 'b', 'a', 'c'], ['a', 'c'], 0)).toBe(2);
    expect(indexOfRun(['a', 'b', 'a', 'c'], ['a', 'b'], 1)).toBe(-1);
    expect(indexOfRun(['a'], ['a', 'b'], 0)).toBe(-1);
  });

  test('every class and function of its table of layers is exported by the package', () => {
    const table = page.slice(page.indexOf('| layer |'), page.indexOf('## 2.'));
    const layers = [...table.matchAll(/`([A-Za-z]\w+)`/g)].map(([, name]) => name!).filter((name) => name !== 'forwardResidual');
    expect(layers.length).toBeGreaterThan(12);
    expect(layers.filter((name) => !(name in library))).toEqual([]);
  });

  test('every class that it names is exported', () => {
    const classes = names.filter((name) => /^[A-Z][a-z]|^[A-Z]+[a-z]/.test(name) && name !== 'LoadedWeight');
    expect(classes).toEqual(expect.arrayContaining(['CausalLM', 'WeightsMapper', 'AutoWeightsLoader', 'PagedAttentionWithALiBi', 'Sampler']));
    expect(classes.filter((name) => !(name in library))).toEqual([]);
  });

  test('every other name is one of the code', () => {
    const others = names.filter((name) => !(name in library) && !(name in ERRORS) && !new RegExp(`\\b${name}\\b`).test(libText + testText));
    expect(others).toEqual([]);
  });

  test('its error codes exist', () => {
    const codes = page.match(/ERR_KVASIR_\w+/g)!;
    expect(codes.length).toBeGreaterThan(5);
    expect(codes.filter((code) => !(code in ERRORS))).toEqual([]);
  });

  test('its files exist', () => {
    const files = [...page.matchAll(/`((?:lib|test|scripts|examples)\/[\w./-]+)`/g)].map(([, file]) => file!);
    expect(files.length).toBeGreaterThan(5);
    expect(files.filter((file) => !fs.existsSync(path.join(root, file)))).toEqual([]);
  });
});
