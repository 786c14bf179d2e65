'use strict';
// Compiles every CUDA source to an object file, without a GPU and without linking: `npm test` does this where nvcc is installed.
// A file is compiled again only when it or a header changed.

const fs = require('node:fs');
const path = require('node:path');
const { ROOT, UserError, cleanBuildEnv, firstLineOf, hashInputs, listFiles, readJson, run, runMain } = require('./common.js');
const { findNvcc } = require('./toolchain.js');

const OUT = path.join(ROOT, 'build', 'cuda-check');
const STAMP = path.join(OUT, 'stamps.json');
const FLAGS = ['-c', '-std=c++20', '-arch=sm_90a', '--expt-relaxed-constexpr', '-Xcompiler', '-fPIC,-Wall'];

async function compile(nvcc, file) {
  const object = path.join(OUT, `${file.replaceAll('/', '_')}.o`);
  process.stderr.write(`nvcc ${file}\n`);
  const code = await run(nvcc, [...FLAGS, '-I', path.join(ROOT, 'native'), '-o', object, path.join(ROOT, file)], { env: cleanBuildEnv() });
  if (code !== 0) throw new UserError(`nvcc failed on ${file} with exit code ${code}.`);
}

async function main() {
  const nvcc = findNvcc(path.join(ROOT, 'native', 'cuda'));
  if (nvcc === null) throw new UserError('there is no nvcc on PATH or no native/cuda to compile.');
  fs.mkdirSync(OUT, { recursive: true });
  const stamps = readJson(STAMP) ?? {};
  const headers = listFiles('native', (file) => /\.(h|inc|cuh)$/.test(file));
  const nvccVersion = firstLineOf(nvcc, ['--version']);
  for (const file of listFiles('native/cuda', (name) => name.endsWith('.cu'))) {
    const inputs = hashInputs([file, ...headers], FLAGS, nvccVersion);
    if (stamps[file] === inputs) continue;
    await compile(nvcc, file);
    stamps[file] = inputs;
    fs.writeFileSync(STAMP, JSON.stringify(stamps));
  }
}

runMain(main);
