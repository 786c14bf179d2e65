'use strict';
// Builds native/ with the CUDA backend into build/cuda/Release/kvasir.node, and with --benches its benchmark programs into
// build/cuda/bench/. Needs nvcc but no GPU; the addon also runs, without the backend, on a machine that has neither.
//
//   node scripts/build-cuda.js [--archs 80-real,90a-real] [--benches]
//   node scripts/build-cuda.js --check [--archs 80,86,89,90a] [FILE.cu ...]
//
// The architectures are CMake's names; KVASIR_CUDA_ARCHS is the default of --archs. --check compiles every kernel (or those named) for
// every architecture that is supported and builds nothing.

const { spawn } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { parseArgs } = require('node:util');
const { ROOT, UserError, listFiles, runMain } = require('./common.js');
const { buildExtra, compilerFact, ensureAddon } = require('./cmake-build.js');
const { findCuda, findToolchain } = require('./toolchain.js');

const DEFAULT_ARCHS = '90a-real';
const SUPPORTED_ARCHS = '80-real,86-real,89-real,90a-real';
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

/** What nvcc calls an architecture of CMake's: machine code, intermediate code, or without a suffix both. */
function codeOptions(arch) {
  const [number, kind] = arch.split('-');
  const code = { real: [`sm_${number}`], virtual: [`compute_${number}`] }[kind] ?? [`sm_${number}`, `compute_${number}`];
  return code.map((name) => `-gencode=arch=compute_${number},code=${name}`);
}

/** Compiles one kernel file with the flags of native/CMakeLists.txt; resolves with nvcc's exit code, what it said, and the seconds. */
function compileKernel(nvcc, file, archs, object) {
  const flags = ['-std=c++20', '-O3', '--expt-relaxed-constexpr', '-Xptxas', '-v', ...archs.flatMap(codeOptions)];
  const started = Date.now();
  return new Promise((resolve, reject) => {
    const child = spawn(nvcc, [...flags, '-I', 'native', '-c', file, '-o', object], { cwd: ROOT, stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => { output += chunk; });
    child.on('error', reject);
    child.on('close', (code) => resolve({ code: code ?? 1, output, seconds: (Date.now() - started) / 1000 }));
  });
}

/** One line per file: seconds, and registers that did not suffice (ptxas reports them per kernel and architecture). */
function reportKernel(file, { code, output, seconds }) {
  const spilling = [...output.matchAll(/(\d+) bytes spill stores/g)].filter((match) => match[1] !== '0').length;
  const spills = spilling === 0 ? '' : `, ${spilling} kernel(s) spill registers`;
  process.stdout.write(`${file}: ${code === 0 ? 'compiles' : 'FAILED'} in ${seconds.toFixed(1)} s${spills}\n`);
  if (code !== 0) process.stdout.write(output.split('\n').filter((line) => !/^ptxas info|^\s+\d+ bytes stack frame/.test(line)).join('\n'));
}

/** Compiles `files` (default: all kernels) for every one of `archs` without keeping anything; resolves with 1 if one fails. */
async function checkKernels(archs, files) {
  const cuda = findCuda();
  if (problem(cuda) !== null) throw new UserError(problem(cuda));
  const waiting = files.length > 0 ? [...files] : listFiles('native/cuda', (file) => file.endsWith('.cu'));
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'kvasir-cuda-check-'));
  let failed = 0;
  const work = async (object) => {
    for (let file = waiting.shift(); file !== undefined; file = waiting.shift()) {
      const result = await compileKernel(cuda.nvcc, file, archs, object);
      if (result.code !== 0) failed++;
      reportKernel(file, result);
    }
  };
  try {
    await Promise.all(Array.from({ length: os.availableParallelism() }, (_, i) => work(path.join(folder, `${i}.o`))));
  } finally {
    fs.rmSync(folder, { recursive: true, force: true });
  }
  process.stdout.write(failed === 0 ? `Every kernel compiles for ${archs.join(', ')}.\n` : `${failed} file(s) do not compile.\n`);
  return failed === 0 ? 0 : 1;
}

async function main() {
  const options = { archs: { type: 'string' }, benches: { type: 'boolean', default: false }, check: { type: 'boolean', default: false } };
  const { values, positionals } = parseArgs({ options, allowPositionals: true });
  if (values.check) return checkKernels(parseArchs(values.archs ?? SUPPORTED_ARCHS), positionals);
  if (positionals.length > 0) throw new UserError(`only --check takes files; received "${positionals[0]}".`);
  await ensureCuda({ benches: values.benches, ...(values.archs === undefined ? {} : { archs: parseArchs(values.archs) }) });
  return 0;
}

module.exports = { ensureCuda, codeOptions, BENCH_DIR, CUDA_ADDON };

if (require.main === module) runMain(main);
