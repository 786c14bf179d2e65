'use strict';
// Checks what `npm pack` would publish: everything a user needs, and nothing else.

const { spawnSync } = require('node:child_process');
const { ROOT, UserError, listFiles, runMain } = require('./common.js');

/** Every published file must match one of these. */
const ALLOWED = [
  /^(package\.json|README\.md|LICENSE|CHANGELOG\.md|binding\.gyp)$/,
  /^dist\/.+\.(js|mjs|d\.ts|d\.mts|js\.map|json)$/,
  /^native\/(?!bench\/)(.+\/)?(CMakeLists\.txt|README\.md|package\.json|[\w.-]+\.(h|inc|cc|cu|cuh|cmake))$/,
  /^scripts\/(common|toolchain|cmake-build|build-native|build-cuda|install)\.js$/,
  /^examples\/[\w-]+\.(js|mjs)$/,
  /^deploy\/[\w-]+\.(sh|sbatch|yaml|md)$/,
  /^examples\/custom-model\/([\w-]+\.(js|ts)|tsconfig\.json|README\.md)$/,
  /^examples\/configs\/[\w.-]+\.json$/,
  /^examples\/models\/kvasir-tales-5m\/(README\.md|(config|generation_config|tokenizer|tokenizer_config)\.json|model\.safetensors)$/,
  /^docs\/[\w-]+\.md$/,
];

/** Files without which the package does not work for a user. */
const REQUIRED = [
  'package.json', 'README.md', 'LICENSE', 'CHANGELOG.md', 'binding.gyp',
  'dist/index.js', 'dist/index.d.ts', 'dist/index.mjs', 'dist/index.d.mts', 'dist/cli/main.js',
  'native/CMakeLists.txt', 'native/package.json',
  'scripts/common.js', 'scripts/toolchain.js', 'scripts/cmake-build.js', 'scripts/build-native.js', 'scripts/build-cuda.js', 'scripts/install.js',
  'examples/story.js', 'examples/models/kvasir-tales-5m/config.json', 'examples/models/kvasir-tales-5m/model.safetensors',
  'examples/models/kvasir-tales-5m/tokenizer.json', 'examples/models/kvasir-tales-5m/tokenizer_config.json',
];

/** Paths that `npm pack` would put into the tarball. Scripts are off: prepack would print into the JSON. */
function packedFiles() {
  const result = spawnSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], {
    cwd: ROOT, encoding: 'utf8', maxBuffer: 64 << 20, shell: process.platform === 'win32',
  });
  if (result.status !== 0) throw new UserError(`npm pack --dry-run failed: ${result.stderr}`);
  const parsed = JSON.parse(result.stdout);
  const [pack] = Array.isArray(parsed) ? parsed : Object.values(parsed);
  return pack.files.map((file) => file.path);
}

/** Complaints about a list of packed paths; empty when it is right. Every native source of the tree must be among them. */
function complaints(files) {
  const present = new Set(files);
  const required = [...REQUIRED, ...listFiles('native', (file) => /\.(h|inc|cc|cu|cuh)$/.test(file) && !file.startsWith('native/bench/'))];
  return [
    ...required.filter((file) => !present.has(file)).map((file) => `missing from the package: ${file}`),
    ...files.filter((file) => !ALLOWED.some((rule) => rule.test(file))).map((file) => `must not be published: ${file}`),
  ];
}

async function main() {
  const files = packedFiles();
  const found = complaints(files);
  if (found.length > 0) throw new UserError(`the package is not right:\n${found.join('\n')}`);
  process.stderr.write(`The package holds ${files.length} files, all expected.\n`);
}

module.exports = { packedFiles, complaints };

if (require.main === module) runMain(main);
