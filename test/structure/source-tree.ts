import * as fs from 'node:fs';
import * as path from 'node:path';
import * as ts from 'typescript';

export const ROOT = path.resolve(__dirname, '../..');

/**
 * Which layers (folders of lib/) or single files a layer may import at run time, besides itself and utils.
 * Type-only imports are free: they leave no trace in the built code.
 */
export const LAYER_RULES: Readonly<Record<string, readonly string[]>> = {
  utils: [],
  binding: [],
  config: [],
  tensor: ['binding'],
  ops: ['tensor', 'binding'],
  nn: ['ops', 'tensor', 'config'],
  attention: ['ops', 'tensor', 'config'],
  distributed: ['ops', 'tensor', 'config'],
  quantization: ['nn', 'ops', 'tensor', 'config'],
  layers: ['quantization/method', 'attention', 'distributed', 'nn', 'ops', 'tensor', 'config'],
  models: ['layers', 'nn', 'config', 'tensor'],
  loader: ['models/registry', 'quantization/registry', 'nn', 'tensor', 'config'],
  sampling: ['ops', 'tensor'],
  core: ['config'],
  worker: ['loader', 'models', 'attention', 'sampling', 'tensor', 'ops', 'distributed', 'nn', 'config', 'core/types'],
  tokenizer: [],
  chat: [],
  engine: ['core', 'worker/executor', 'distributed/launch-environment', 'tokenizer', 'chat', 'sampling/params', 'config'],
  // index.ts is loaded when a command runs; the table of options and what `doctor` shows must be there without loading a model's worth of code.
  cli: ['index', 'config/options', 'config/cpu-count', 'binding'],
  index: ['*'],
};

/** What a native folder may include, besides the standard library. */
export const NATIVE_RULES: Readonly<Record<string, readonly string[]>> = {
  core: ['core'],
  cpu: ['cpu', 'core'],
  cuda: ['cuda', 'core'],
  comm: ['comm', 'cpu', 'core'],
  ops: ['ops', 'cpu', 'cuda', 'comm', 'core'],
  // Programs that time kernels; not part of the addon, and not published.
  bench: ['bench', 'ops', 'cpu', 'cuda', 'core'],
  addon: ['addon', 'ops', 'core', 'cpu', 'cuda', 'comm'],
};

/** Files below `dir` (paths relative to the root, with /) whose name matches. */
export function treeFiles(dir: string, name: RegExp): string[] {
  const start = path.join(ROOT, dir);
  if (!fs.existsSync(start)) return [];
  return fs
    .readdirSync(start, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile() && name.test(entry.name))
    .map((entry) => path.relative(ROOT, path.join(entry.parentPath, entry.name)).split(path.sep).join('/'))
    .filter((file) => !file.includes('node_modules/'))
    .sort();
}

/** lib/ops/norm.ts -> ops; lib/index.ts -> index. */
export function layerOf(file: string): string {
  const parts = file.split('/');
  return parts.length > 2 ? parts[1]! : parts[1]!.replace(/\.ts$/, '');
}

export function mayImport(layer: string, target: string): boolean {
  const to = layerOf(target);
  if (to === layer || to === 'utils') return true;
  const withoutSuffix = target.replace(/^lib\//, '').replace(/\.ts$/, '');
  return (LAYER_RULES[layer] ?? []).some((rule) => rule === '*' || rule === to || rule === withoutSuffix);
}

export interface ImportEdge {
  /** Path from the root, lib/...ts. */
  readonly target: string;
  readonly typeOnly: boolean;
}

/** Relative imports of a file: import, export from, require() and import(). */
export function importsOf(file: string): ImportEdge[] {
  const source = ts.createSourceFile(file, fs.readFileSync(path.join(ROOT, file), 'utf8'), ts.ScriptTarget.ES2022, true);
  const edges: ImportEdge[] = [];
  const add = (specifier: string, typeOnly: boolean): void => {
    if (specifier.startsWith('.')) edges.push({ target: resolveImport(file, specifier), typeOnly });
  };
  const visit = (node: ts.Node): void => {
    if (ts.isImportDeclaration(node) && ts.isStringLiteral(node.moduleSpecifier)) add(node.moduleSpecifier.text, isTypeOnly(node));
    if (ts.isExportDeclaration(node) && node.moduleSpecifier && ts.isStringLiteral(node.moduleSpecifier)) add(node.moduleSpecifier.text, isTypeOnly(node));
    if (ts.isCallExpression(node)) {
      const called = node.expression;
      const isLoad = called.kind === ts.SyntaxKind.ImportKeyword || (ts.isIdentifier(called) && called.text === 'require');
      const [argument] = node.arguments;
      if (isLoad && argument && ts.isStringLiteral(argument)) add(argument.text, false);
    }
    ts.forEachChild(node, visit);
  };
  visit(source);
  return edges;
}

/** `import type`, `export type`, or braces in which every name is marked `type`. */
function isTypeOnly(node: ts.ImportDeclaration | ts.ExportDeclaration): boolean {
  if (ts.isExportDeclaration(node)) {
    const clause = node.exportClause;
    return node.isTypeOnly || (clause !== undefined && ts.isNamedExports(clause) && clause.elements.every((element) => element.isTypeOnly));
  }
  const clause = node.importClause;
  if (clause === undefined) return false;
  if (clause.phaseModifier === ts.SyntaxKind.TypeKeyword) return true;
  const names = clause.namedBindings;
  return clause.name === undefined && names !== undefined && ts.isNamedImports(names) && names.elements.every((element) => element.isTypeOnly);
}

function resolveImport(from: string, specifier: string): string {
  const base = path.posix.join(path.posix.dirname(from), specifier.replace(/\.js$/, ''));
  for (const candidate of [`${base}.ts`, `${base}/index.ts`, base]) {
    if (fs.existsSync(path.join(ROOT, candidate)) && fs.statSync(path.join(ROOT, candidate)).isFile()) return candidate;
  }
  return `${base}.ts`;
}

/** native/cpu/norm.cc -> cpu. */
export function nativeLayerOf(file: string): string {
  return file.split('/')[1] ?? '';
}

/** Project headers that a native file includes, as paths from the root; system headers are left out. */
export function nativeIncludesOf(file: string): string[] {
  const text = fs.readFileSync(path.join(ROOT, file), 'utf8');
  return [...text.matchAll(/^\s*#\s*include\s+"([^"]+)"/gm)].map(([, name]) => {
    const beside = path.posix.join(path.posix.dirname(file), name!);
    return fs.existsSync(path.join(ROOT, beside)) ? beside : `native/${name!}`;
  });
}

/** Cycles of a graph, each once and as "a -> b -> a". */
export function findCycles(graph: ReadonlyMap<string, readonly string[]>): string[] {
  const done = new Set<string>();
  const trail: string[] = [];
  const cycles: string[] = [];
  const visit = (node: string): void => {
    const start = trail.indexOf(node);
    if (start >= 0) {
      cycles.push([...trail.slice(start), node].join(' -> '));
      return;
    }
    if (done.has(node)) return;
    trail.push(node);
    for (const next of graph.get(node) ?? []) visit(next);
    trail.pop();
    done.add(node);
  };
  for (const node of graph.keys()) visit(node);
  return cycles;
}
