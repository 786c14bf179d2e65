'use strict';
// Builds native/ with the CUDA backend into build/cuda/Release/kvasir.node, and with --benches its benchmark programs into
// build/cuda/bench/. Needs nvcc but no GPU; the addon also runs, without the backend, on a machine that has neither.
//
//   node scripts/build-cuda.js [--archs 80-real,90a-real] [--benches]
//
// The architectures are CMake's names; KVASIR_CUDA_ARCHS is the default of --archs.

const path = require('node:path');
const { parseArgs } = require('node:util');
const { ROOT, UserError, listFiles, runMain } = require('./common.js');
const { buildExtra, compilerFact, ensureAddon } = require('./cmake-build.js');
const { findCuda, findToolchain } = require('./toolchain.js');

const DEFAULT_ARCHS = '90a-real';
const BUILD_DIR = path.join(ROOT, 'build', 'cuda');
const BENCH_DIR = path.join(BUILD_DIR, 'bench');
const CUDA_ADDON = path.join(BUILD_DIR, 'Release', 'kvasir.node');

function parseArchs(text) {
  const archs = text.split(/[,;]/).map((arch) => arch.trim()).filter(Boolean);
  if (archs.length === 0 || !archs.every((arch) => /^\d{2,3}[af]?(-real|-virtual)?$/.test(arch))) {
    throw new UserError(`CUDA architectures are a list like "80-real,90a-real"; received "${text}".`);
  }
  return archs;
}

function problem(cuda) {
  const toolchain = findToolchain().problem;
  if (toolchain !== null) return toolchain;
  return cuda.problem === null ? null : `Kvasir's CUDA backend cannot be built: ${cuda.problem}.`;
}

/** The CUDA build for `archs` (a list like ["90a-real"]), see cmake-build.js. */
function cudaTarget(archs) {
  const cuda = findCuda();
  const target = {
    name: 'cuda',
    outputDir: path.dirname(CUDA_ADDON),
    cmakeDir: path.join(ROOT, 'build', 'cmake-cuda'),
    log: path.join(ROOT, 'build', 'build-cuda.log'),
    sources: () => listFiles('native', (file) => !/^native\/bench\/|\.md$/.test(file)),
    defines: { KVASIR_CUDA: 'ON', KVASIR_CUDA_ARCHS: archs.join(';'), KVASIR_BENCH_DIR: BENCH_DIR },
    key: { nvcc: cuda.nvcc, cuda: cuda.version },
    problem: () => problem(cuda),
    metadata: () => ({ cuda: cuda.version, archs, nvcc: compilerFact(target, 'CUDA', 'COMPILER_VERSION') }),
  };
  return target;
}

/** Resolves with the path of the CUDA addon of the sources; see the head of this file for the options. */
async function ensureCuda({ archs = parseArchs(process.env.KVASIR_CUDA_ARCHS ?? DEFAULT_ARCHS), benches = false } = {}) {
  const target = cudaTarget(archs);
  await ensureAddon(target);
  if (benches) await buildExtra(target, 'kvasir_cuda_benches');
  return CUDA_ADDON;
}

async function main() {
  const { values } = parseArgs({ options: { archs: { type: 'string' }, benches: { type: 'boolean', default: false } } });
  await ensureCuda({ benches: values.benches, ...(values.archs === undefined ? {} : { archs: parseArchs(values.archs) }) });
}

module.exports = { ensureCuda, BENCH_DIR, CUDA_ADDON };

if (require.main === module) runMain(main);
