import { execFileSync, spawnSync } from 'node:child_process';
import * as fs from 'node:fs';
import * as path from 'node:path';
import { ROOT } from './source-tree';

const packageJson = JSON.parse(fs.readFileSync(path.join(ROOT, 'package.json'), 'utf8')) as {
  version: string;
  exports: Record<string, unknown>;
  bin: Record<string, string>;
  dependencies: Record<string, string>;
  type?: string;
};
const built = fs.existsSync(path.join(ROOT, 'dist/index.mjs'));
const describeBuilt = built ? describe : describe.skip;

interface PackCheck {
  packedFiles(): string[];
  complaints(files: readonly string[]): string[];
}
interface EsmWrapper {
  wrapperSource(names: readonly string[]): string;
  exportedNames(library: object): string[];
}

describe('package.json', () => {
  test('types stand before code in every condition', () => {
    const conditions = packageJson.exports['.'] as Record<string, Record<string, string>>;
    for (const condition of Object.values(conditions)) expect(Object.keys(condition)[0]).toBe('types');
  });

  test('what the code requires at run time is a dependency, not a development dependency', () => {
    const own = new Set<string>();
    for (const entry of fs.readdirSync(path.join(ROOT, 'lib'), { recursive: true, withFileTypes: true })) {
      if (!entry.isFile() || !entry.name.endsWith('.ts')) continue;
      const text = fs.readFileSync(path.join(entry.parentPath, entry.name), 'utf8');
      for (const [, name] of text.matchAll(/^(?:import|export) (?!type\b)[^;]*? from '((?:@[\w-]+\/)?[\w-]+)[^']*';/gm)) {
        if (!name!.startsWith('node')) own.add(name!);
      }
    }
    expect([...own].filter((name) => !(name in packageJson.dependencies))).toEqual([]);
  });

  test('the changelog has a section for this version', () => {
    expect(fs.readFileSync(path.join(ROOT, 'CHANGELOG.md'), 'utf8')).toContain(`## [${packageJson.version}]`);
  });
});

describe('the ESM wrapper', () => {
  const { wrapperSource, exportedNames } = require('../../scripts/esm-wrapper.js') as EsmWrapper;

  test('re-exports every name once', () => {
    const names = exportedNames({ LLM: 1, AsyncLLM: 2, default: 3, __esModule: true });
    expect(names).toEqual(['AsyncLLM', 'LLM']);
    expect(wrapperSource(names)).toContain('export const {\n  AsyncLLM,\n  LLM,\n} = kvasir;');
  });
});

describeBuilt('the built package', () => {
  test('import and require give the same objects', () => {
    const program = `
      import * as esm from 'kvasir';
      import { createRequire } from 'node:module';
      const cjs = createRequire(process.cwd() + '/package.json')('kvasir');
      const names = Object.keys(cjs).filter((name) => name !== '__esModule' && name !== 'default');
      console.log(JSON.stringify({ count: names.length, different: names.filter((name) => esm[name] !== cjs[name]), whole: esm.default === cjs }));
    `;
    const output = execFileSync(process.execPath, ['--input-type=module', '-e', program], { cwd: ROOT, encoding: 'utf8' });
    const result = JSON.parse(output) as { count: number; different: string[]; whole: boolean };
    expect(result.count).toBeGreaterThan(0);
    expect(result.different).toEqual([]);
    expect(result.whole).toBe(true);
  });

  test('npm pack publishes what users need and nothing else', () => {
    const { packedFiles, complaints } = require('../../scripts/pack-check.js') as PackCheck;
    const files = packedFiles();
    expect(complaints(files)).toEqual([]);
    expect(complaints(files.filter((file) => file !== 'LICENSE'))).toEqual(['missing from the package: LICENSE']);
    expect(complaints([...files, 'test/x.test.ts'])).toEqual(['must not be published: test/x.test.ts']);
  });

  test('the command has a shebang and prints the version', () => {
    const main = path.join(ROOT, packageJson.bin.kvasir!);
    expect(fs.readFileSync(main, 'utf8').startsWith('#!/usr/bin/env node\n')).toBe(true);
    const result = spawnSync(process.execPath, [main, '--version'], { encoding: 'utf8' });
    expect(result.stdout).toBe(`${packageJson.version}\n`);
  });
});
