'use strict';
// `npm run portable`: makes portable/, a folder with which the tests and benchmarks run on a Linux machine that has neither Node.js
// nor a network, for example a rented GPU machine: this Node, the compiled library with its CUDA addon, the tests as JavaScript, jest,
// and the small models. See docs/gpu.md.

const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { ROOT, UserError, findOnPath, firstLineOf, hashInputs, listFiles, readJson, runMain } = require('./common.js');
const { BENCH_DIR, CUDA_ADDON, ensureCuda } = require('./build-cuda.js');
const { ensureTs } = require('./build-ts.js');
const { findCuda } = require('./toolchain.js');

const OUT = path.join(ROOT, 'portable');
const STAGE = path.join(ROOT, 'build', 'portable');
const LIMIT_BYTES = 60e6;
const TOP_LEVEL = ['jest', 'fast-check', '@huggingface/jinja', '@huggingface/tokenizers', 'cli-progress', 'commander'];
/** Of ../shared: what the tests of ops and models on a GPU need. */
const SHARED_MODELS = [
  'stories260K', 'stories260K-bf16-sharded', 'babyllama-tok105', 'babyllama-tok105-awq-int4-g32', 'babyllama-tok105-fp8', 'babyllama-tok105-gptq-int4-g32',
  'kvasir-tales-5m', 'tiny-random',
];
const EXAMPLE_MODEL = 'examples/models/kvasir-tales-5m';
/** Never required at run time. */
const DEAD_WEIGHT = /(\.d\.[cm]?ts|\.map|\.md|\.flow)$/;

const shared = process.env.KVASIR_SHARED ?? path.resolve(ROOT, '..', 'shared');

function copy(from, to, accept = () => true) {
  fs.cpSync(from, to, { recursive: true, dereference: true, filter: (file) => accept(file) });
}

function writeText(file, text, mode = 0o644) {
  fs.mkdirSync(path.dirname(file), { recursive: true });
  fs.writeFileSync(file, text, { mode });
}

/** The directories of packages and everything that they depend on and that is installed, as Node finds them. */
function dependencyDirs(names) {
  const found = new Set();
  const locate = (name, from) => {
    for (let dir = from; ; dir = path.dirname(dir)) {
      const candidate = path.join(dir, 'node_modules', name);
      if (fs.existsSync(path.join(candidate, 'package.json'))) return candidate;
      if (dir === path.dirname(dir)) return null;
    }
  };
  const visit = (name, from) => {
    if (name.startsWith('@types/')) return;
    const dir = locate(name, from);
    if (dir === null || found.has(dir)) return;
    found.add(dir);
    const { dependencies, optionalDependencies, peerDependencies } = readJson(path.join(dir, 'package.json'));
    for (const further of Object.keys({ ...dependencies, ...optionalDependencies, ...peerDependencies })) visit(further, dir);
  };
  for (const name of names) {
    if (locate(name, ROOT) === null) throw new UserError(`the package ${name} is not installed; run "npm ci" first.`);
    visit(name, ROOT);
  }
  return [...found];
}

/** Node, packages and models: what seldom changes. */
function stageBase(dir) {
  const node = path.join(dir, 'bin', 'node');
  fs.mkdirSync(path.dirname(node), { recursive: true });
  fs.copyFileSync(process.execPath, node);
  fs.chmodSync(node, 0o755);
  if (findOnPath(['strip']) !== null) spawnSync('strip', [node]); // symbols are a seventh of it; without them it runs the same
  for (const from of dependencyDirs(TOP_LEVEL)) {
    const to = path.join(dir, path.relative(ROOT, from));
    const nested = path.join(from, 'node_modules');
    copy(from, to, (file) => !file.startsWith(nested) && !DEAD_WEIGHT.test(file));
  }
  copy(path.join(ROOT, EXAMPLE_MODEL), path.join(dir, EXAMPLE_MODEL));
  for (const model of SHARED_MODELS) {
    const from = path.join(shared, 'models', model);
    if (fs.existsSync(from)) copy(from, path.join(dir, 'shared', 'models', model));
  }
  linkExampleModel(dir);
  const peers = path.join(shared, 'peers', 'torch_baseline.py');
  if (fs.existsSync(peers)) copy(peers, path.join(dir, 'shared', 'peers', 'torch_baseline.py'));
}

/** The example's weights are also one of the test models: stored once. */
function linkExampleModel(dir) {
  const copyOfIt = path.join(dir, 'shared/models/kvasir-tales-5m/model.safetensors');
  const original = path.join(dir, EXAMPLE_MODEL, 'model.safetensors');
  if (!fs.existsSync(copyOfIt) || !fs.readFileSync(copyOfIt).equals(fs.readFileSync(original))) return;
  fs.chmodSync(path.dirname(copyOfIt), 0o755);
  fs.rmSync(copyOfIt, { force: true });
  fs.linkSync(original, copyOfIt);
}

/** TypeScript as jest would compile it, once and for all. */
function transpile(from, to) {
  const swc = require('@swc/core');
  const options = require(path.join(ROOT, 'jest.config.js')).transform['^.+\\.ts$'][1];
  const jsc = { ...options.jsc, transform: { ...options.jsc.transform, hidden: { jest: true } } };
  const { code } = swc.transformFileSync(path.join(ROOT, from), { ...options, jsc, swcrc: false, sourceMaps: false });
  writeText(to, code);
}

/** Everything that is made of the sources. */
function stageApp(dir) {
  copy(path.join(ROOT, 'dist'), path.join(dir, 'dist'), (file) => !DEAD_WEIGHT.test(file));
  for (const file of [...listFiles('lib'), ...listFiles('test', (name) => !name.startsWith('test/structure/'))]) {
    if (file.endsWith('.ts')) transpile(file, path.join(dir, file.replace(/\.ts$/, '.js')));
    else copy(path.join(ROOT, file), path.join(dir, file));
  }
  for (const name of ['package.json', 'scripts', 'examples/configs']) copy(path.join(ROOT, name), path.join(dir, name));
  for (const file of [CUDA_ADDON, CUDA_ADDON.replace(/\.node$/, '.json'), BENCH_DIR]) copy(file, path.join(dir, path.relative(ROOT, file)));
  const config = { ...require(path.join(ROOT, 'jest.config.js')), testMatch: ['**/*.test.js'], transform: {} };
  writeText(path.join(dir, 'jest.config.js'), `module.exports = ${JSON.stringify(config, null, 2)};\n`);
  const command = (script) => `#!/bin/sh\nroot=$(dirname "$0")/..\nexec "$root/bin/node" "$root/${script}" "$@"\n`;
  writeText(path.join(dir, 'bin', 'kvasir'), command('dist/cli/main.js'), 0o755);
  writeText(path.join(dir, 'bin', 'jest'), command('node_modules/jest/bin/jest.js'), 0o755);
}

/** Packs what `stage` makes into portable/<name>.tar.xz, with a list of its files for run.sh; unless `key` is that of the last one. */
function archive(name, key, stage) {
  const file = path.join(OUT, `${name}.tar.xz`);
  const stamp = path.join(STAGE, `${name}.key`);
  if (key !== null && fs.existsSync(file) && fs.existsSync(stamp) && fs.readFileSync(stamp, 'utf8') === key) return;
  process.stderr.write(`Packing ${path.relative(ROOT, file)} ...\n`);
  const dir = path.join(STAGE, name);
  fs.rmSync(dir, { recursive: true, force: true });
  fs.rmSync(stamp, { force: true });
  stage(dir);
  spawnSync('chmod', ['-R', 'u+w', dir]); // read-only sources must not make a bundle that cannot be replaced
  const parts = listFiles(path.relative(ROOT, dir)).map((part) => `"${path.posix.relative(path.relative(ROOT, dir), part)}"\n`);
  writeText(path.join(dir, `.${name}.parts`), parts.join(''));
  // A dictionary as large as the archive: the benchmarks are linked with the same kernels, which are then stored once.
  const args = ['-C', dir, '--owner=0', '--group=0', '--sort=name', '-I', 'xz --lzma2=preset=6,dict=128MiB', '-cf', file, '.'];
  const result = spawnSync('tar', args, { encoding: 'utf8' });
  if (result.status !== 0) throw new UserError(`tar failed: ${result.stderr}`);
  if (key !== null) fs.writeFileSync(stamp, key);
}

async function main() {
  if (process.platform !== 'linux') throw new UserError('the bundle can only be made on Linux.');
  for (const tool of ['tar', 'xz']) if (findOnPath([tool]) === null) throw new UserError(`the bundle needs ${tool} on PATH.`);
  const { problem } = findCuda();
  if (problem !== null) throw new UserError(`the bundle needs the CUDA addon: ${problem}.`);
  await ensureTs();
  await ensureCuda({ benches: true });
  fs.mkdirSync(OUT, { recursive: true });
  const models = SHARED_MODELS.filter((model) => fs.existsSync(path.join(shared, 'models', model)));
  archive('base', hashInputs(['package-lock.json', 'scripts/portable.js'], process.execPath, firstLineOf(process.execPath, ['--version']), models), stageBase);
  archive('app', null, stageApp);
  for (const name of ['run.sh', 'session.sh']) fs.copyFileSync(path.join(__dirname, 'portable', name), path.join(OUT, name));
  const bytes = fs.readdirSync(OUT).reduce((sum, name) => sum + fs.statSync(path.join(OUT, name)).size, 0);
  process.stderr.write(`portable/ holds ${(bytes / 1e6).toFixed(1)} MB.\n`);
  if (bytes > LIMIT_BYTES) throw new UserError(`portable/ is larger than ${LIMIT_BYTES / 1e6} MB.`);
}

runMain(main);
