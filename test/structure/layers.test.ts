import * as fs from 'node:fs';
import * as path from 'node:path';
import { findCycles, importsOf, layerOf, LAYER_RULES, mayImport, NATIVE_RULES, nativeIncludesOf, nativeLayerOf, ROOT, treeFiles } from './source-tree';

const libFiles = treeFiles('lib', /\.ts$/);
const nativeFiles = treeFiles('native', /\.(h|inc|cc|cu|cuh)$/);

describe('imports of lib/', () => {
  test('every folder of lib/ has a row in the table of layers', () => {
    const folders = fs.readdirSync(path.join(ROOT, 'lib'), { withFileTypes: true }).filter((entry) => entry.isDirectory());
    expect(folders.map((entry) => entry.name).filter((name) => !(name in LAYER_RULES))).toEqual([]);
  });

  test('a file imports only what its layer may', () => {
    const violations = libFiles.flatMap((file) =>
      importsOf(file)
        .filter((edge) => !edge.typeOnly && !mayImport(layerOf(file), edge.target))
        .map((edge) => `${file} imports ${edge.target}`),
    );
    expect(violations).toEqual([]);
  });

  test('every relative import leads to a file', () => {
    const broken = libFiles.flatMap((file) => importsOf(file).filter((edge) => !fs.existsSync(path.join(ROOT, edge.target))).map((edge) => `${file}: ${edge.target}`));
    expect(broken).toEqual([]);
  });

  test('no file imports itself through others', () => {
    const graph = new Map(libFiles.map((file) => [file, importsOf(file).filter((edge) => !edge.typeOnly).map((edge) => edge.target)]));
    expect(findCycles(graph)).toEqual([]);
  });

  test('no barrel files: only lib/index.ts does nothing but re-export', () => {
    const barrels = libFiles.filter((file) => {
      const text = fs.readFileSync(path.join(ROOT, file), 'utf8').replace(/\/\*[\s\S]*?\*\/|\/\/.*$/gm, '');
      const rest = text.replace(/export\s+(type\s+)?(\*(\s+as\s+\w+)?|\{[^}]*\})\s+from\s+'[^']+';?/g, '').trim();
      return rest === '' && text.trim() !== '' && file !== 'lib/index.ts';
    });
    expect(barrels).toEqual([]);
  });
});

describe('includes of native/', () => {
  test('a file includes only what its layer may', () => {
    const violations = nativeFiles.flatMap((file) => {
      const allowed = NATIVE_RULES[nativeLayerOf(file)];
      if (allowed === undefined) return [`${file} lies in no known layer`];
      return nativeIncludesOf(file)
        .filter((target) => !allowed.includes(nativeLayerOf(target)))
        .map((target) => `${file} includes ${target}`);
    });
    expect(violations).toEqual([]);
  });

  test('only the addon knows Node-API', () => {
    const violations = nativeFiles.filter(
      (file) => nativeLayerOf(file) !== 'addon' && /#include\s*[<"](napi\.h|node_api\.h|js_native_api\.h)/.test(fs.readFileSync(path.join(ROOT, file), 'utf8')),
    );
    expect(violations).toEqual([]);
  });

  test('only cuda/, comm/ and the benchmarks know CUDA headers', () => {
    const violations = nativeFiles.filter(
      (file) => !['cuda', 'comm', 'bench'].includes(nativeLayerOf(file)) && /#include\s*[<"](cuda|nccl|cublas)\w*\.h/.test(fs.readFileSync(path.join(ROOT, file), 'utf8')),
    );
    expect(violations).toEqual([]);
  });
});

describe('the rules themselves', () => {
  test.each([
    ['models', 'lib/ops/norm.ts', false],
    ['models', 'lib/layers/linear.ts', true],
    ['models', 'lib/tensor/tensor.ts', true],
    ['core', 'lib/binding/native.ts', false],
    ['core', 'lib/utils/errors.ts', true],
    ['engine', 'lib/worker/executor.ts', true],
    ['engine', 'lib/worker/model-runner.ts', false],
    ['tokenizer', 'lib/chat/template.ts', false],
    ['utils', 'lib/config/options.ts', false],
  ])('%s importing %s: %s', (layer, target, expected) => {
    expect(mayImport(layer, target)).toBe(expected);
  });

  test('a cycle is found and named', () => {
    expect(findCycles(new Map([['a', ['b']], ['b', ['c']], ['c', ['a']], ['d', ['a']]]))).toEqual(['a -> b -> c -> a']);
    expect(findCycles(new Map([['a', ['b', 'c']], ['b', ['c']], ['c', []]]))).toEqual([]);
  });
});
