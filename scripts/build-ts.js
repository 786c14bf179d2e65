'use strict';
// Compiles lib/ to dist/ (CommonJS and types) and writes the ESM wrapper. Nothing runs when the sources are those of the last build.

const fs = require('node:fs');
const path = require('node:path');
const { ROOT, UserError, buildSwitch, dependencyVersion, hashInputs, listFiles, readJson, run, runMain, withLock } = require('./common.js');

const DIST = path.join(ROOT, 'dist');
const STAMP = path.join(DIST, '.build.json');

function sourceInputs() {
  const sources = listFiles('lib', (file) => /\.(ts|json)$/.test(file));
  return hashInputs([...sources, 'tsconfig.json', 'scripts/esm-wrapper.js'], dependencyVersion('typescript'));
}

function isUpToDate(inputs) {
  return readJson(STAMP)?.inputs === inputs && fs.existsSync(path.join(DIST, 'index.mjs'));
}

/** Deletes outputs whose source is gone, which would otherwise be published. */
function pruneOutputs() {
  const wanted = new Set(['dist/index.mjs', 'dist/index.d.mts', 'dist/.build.json']);
  for (const source of listFiles('lib')) {
    const base = source.replace(/^lib\//, 'dist/').replace(/\.ts$/, '');
    for (const suffix of ['', '.js', '.js.map', '.d.ts']) wanted.add(base + suffix);
  }
  for (const file of listFiles('dist')) {
    if (!wanted.has(file)) fs.rmSync(path.join(ROOT, file));
  }
}

/** Path of the TypeScript compiler's entry file, run with this very Node. */
function tscPath() {
  return path.join(path.dirname(require.resolve('typescript/package.json', { paths: [ROOT] })), 'bin', 'tsc');
}

async function build(inputs) {
  process.stderr.write('Compiling TypeScript ...\n');
  fs.rmSync(STAMP, { force: true });
  const code = await run(process.execPath, [tscPath(), '-p', path.join(ROOT, 'tsconfig.json')], { stdio: ['ignore', 2, 2] });
  if (code !== 0) throw new UserError('TypeScript reported the errors above; dist/ was not completed.');
  pruneOutputs();
  // A process of its own: it loads the built library, and a later build in this process must not see an old one in the module cache.
  if ((await run(process.execPath, [path.join(__dirname, 'esm-wrapper.js')])) !== 0) {
    throw new UserError('dist/index.js could not be loaded, so that the ESM wrapper was not written; the error above says why.');
  }
  fs.chmodSync(path.join(DIST, 'cli', 'main.js'), 0o755);
  fs.writeFileSync(STAMP, `${JSON.stringify({ inputs })}\n`);
}

/** Resolves when dist/ is that of lib/. */
async function ensureTs() {
  const mode = buildSwitch();
  if (mode === 'never') {
    if (!fs.existsSync(path.join(DIST, 'index.mjs'))) throw new UserError('KVASIR_BUILD=never, but dist/ is not built.');
    return;
  }
  const inputs = sourceInputs();
  if (mode === 'auto' && isUpToDate(inputs)) return;
  await withLock('dist', async () => {
    if (mode === 'force' || !isUpToDate(inputs)) await build(inputs);
  });
}

module.exports = { ensureTs, tscPath };

if (require.main === module) runMain(ensureTs);
