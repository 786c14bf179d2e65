import { spawnSync } from 'node:child_process';
import * as fs from 'node:fs';
import * as path from 'node:path';
import { cliFlag, ENGINE_OPTIONS } from '../../lib/config/options';
import { ERRORS } from '../../lib/utils/errors';
import { ROOT, treeFiles } from './source-tree';

const MAX_LINES = 400;
/** Files that may be longer, each with its reason. */
const LONG_FILES: Readonly<Record<string, string>> = {};

const SOURCE = /\.(ts|js|mjs|h|inc|cc|cu|cuh|cmake)$|^CMakeLists\.txt$/;
const sources = ['lib', 'native', 'scripts', 'test', 'examples'].flatMap((dir) => treeFiles(dir, SOURCE));
const TEXT = /\.(ts|js|mjs|cjs|json|md|h|inc|cc|cu|cuh|cmake|txt|gyp|yml|yaml)$|^\.[\w.]+$|^run$/;

/** What git tracks or would add; without git, the folders that hold the project. */
function projectFiles(): string[] {
  const listed = spawnSync('git', ['ls-files', '--cached', '--others', '--exclude-standard'], { cwd: ROOT, encoding: 'utf8', maxBuffer: 1 << 26 });
  const files = listed.status === 0 ? listed.stdout.split('\n').filter(Boolean) : [...sources, ...treeFiles('docs', TEXT), 'README.md', 'package.json'];
  return files.filter((file) => TEXT.test(path.basename(file)) && fs.existsSync(path.join(ROOT, file)));
}

/** Words that must not appear, and where they may (this list itself). */
const FORBIDDEN: readonly { readonly what: string; readonly pattern: RegExp; readonly skip?: RegExp }[] = [
  { what: 'a path of one machine', pattern: /(^|[\s"'`(=:])\/(work|home|root|Users)\/[\w.-]+/m },
  { what: 'a marker of unfinished work', pattern: /\b(TODO|FIXME|XXX|HACK)\b/ },
  { what: 'a focused test', pattern: /\b(describe|it|test)\.only\(/ },
];
const EXEMPT = /^(package-lock\.json|LICENSE|test\/structure\/house-rules\.test\.ts|examples\/models\/|test\/.*\.json$)/;

describe('house rules', () => {
  test(`no source file is longer than ${MAX_LINES} lines`, () => {
    const tooLong = sources
      .map((file) => ({ file, lines: fs.readFileSync(path.join(ROOT, file), 'utf8').trimEnd().split('\n').length }))
      .filter(({ file, lines }) => lines > MAX_LINES && !(file in LONG_FILES))
      .map(({ file, lines }) => `${file}: ${lines} lines`);
    expect(tooLong).toEqual([]);
  });

  test.each(FORBIDDEN)('no file holds $what', ({ pattern }) => {
    const found = projectFiles()
      .filter((file) => !EXEMPT.test(file))
      .map((file) => ({ file, match: pattern.exec(fs.readFileSync(path.join(ROOT, file), 'utf8')) }))
      .filter(({ match }) => match !== null)
      .map(({ file, match }) => `${file}: ${match![0].trim()}`);
    expect(found).toEqual([]);
  });

  test('TypeScript files have kebab-case names', () => {
    const odd = ['lib', 'test'].flatMap((dir) => treeFiles(dir, /\.ts$/)).filter((file) => !/^[a-z0-9]+(-[a-z0-9]+)*(\.[a-z]+)*\.ts$/.test(path.basename(file)));
    expect(odd).toEqual([]);
  });

  test('the environment configures nothing but builds', () => {
    const readers = treeFiles('lib', /\.ts$/).filter((file) => /process\.env\.KVASIR_/.test(fs.readFileSync(path.join(ROOT, file), 'utf8')));
    expect(readers).toEqual([]);
  });

  test('the lockfile names no registry', () => {
    expect(fs.readFileSync(path.join(ROOT, 'package-lock.json'), 'utf8')).not.toMatch(/"resolved"\s*:/);
  });
});

describe('docs/', () => {
  const { errorsPage, optionsPage } = require('../../scripts/make-docs.js') as {
    errorsPage(errors: typeof ERRORS): string;
    optionsPage(options: typeof ENGINE_OPTIONS, flagOf: typeof cliFlag): string;
  };
  const page = (name: string): string => fs.readFileSync(path.join(ROOT, 'docs', name), 'utf8');

  test('errors.md is what "npm run docs" writes: exactly the rows of the table of errors', () => {
    expect(page('errors.md')).toBe(errorsPage(ERRORS));
  });

  test('options.md is what "npm run docs" writes: exactly the rows of the table of options', () => {
    expect(page('options.md')).toBe(optionsPage(ENGINE_OPTIONS, cliFlag));
  });

  test('every error code is thrown somewhere', () => {
    const text = [...treeFiles('lib', /\.ts$/), ...treeFiles('native', /\.(h|cc)$/)]
      .filter((file) => file !== 'lib/utils/errors.ts')
      .map((file) => fs.readFileSync(path.join(ROOT, file), 'utf8'))
      .join('\n');
    expect(Object.keys(ERRORS).filter((code) => !text.includes(code))).toEqual([]);
  });

  test('links between pages lead to files', () => {
    const pages = ['README.md', 'CONTRIBUTING.md', 'CHANGELOG.md', 'SECURITY.md', ...treeFiles('docs', /\.md$/), 'examples/models/kvasir-tales-5m/README.md', 'examples/custom-model/README.md'];
    const broken = pages.flatMap((file) =>
      [...fs.readFileSync(path.join(ROOT, file), 'utf8').matchAll(/\]\((?!https?:|#)([^)#\s]+)/g)]
        .map(([, target]) => path.posix.join(path.posix.dirname(file), target!))
        .filter((target) => !fs.existsSync(path.join(ROOT, target)))
        .map((target) => `${file} -> ${target}`),
    );
    expect(broken).toEqual([]);
  });
});
