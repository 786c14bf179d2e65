'use strict';
// `npm run test:gpu`: the tests of the ops on a CUDA device, and the tests that exist only for it (test/gpu). Without a device it says
// so and ends with 0. Further arguments go to jest; paths among them replace the folders. --progress names each test when it begins, on
// standard error: of a run that does not end, the last lines say where it is. --tp 2 runs only what needs that many GPUs: ranks with a GPU
// each, which talk by NCCL.

const fs = require('node:fs');
const path = require('node:path');
const { ROOT, UserError, isCheckout, runMain } = require('./common.js');
const { inspectAddon } = require('./build-cuda-check.js');
const { ensureCuda, CUDA_ADDON } = require('./build-cuda.js');
const { findCuda } = require('./toolchain.js');
const { closingLine, runJest } = require('./test.js');

const FOLDERS = ['test/ops', 'test/gpu'];
const OF_RANKS = ['test/gpu/ranks'];

/** In a clone, brings everything up to date that can be built here; elsewhere takes what is there. */
async function prepare() {
  if (!isCheckout()) return;
  await require('./setup.js').ensureDependencies();
  await require('./build-ts.js').ensureTs();
  if (findCuda().problem === null) await ensureCuda();
}

/** Why there are not as many devices to test on, or null. */
function deviceProblem(count) {
  if (!fs.existsSync(CUDA_ADDON)) return `there is no ${path.relative(ROOT, CUDA_ADDON)} (build it with "npm run build:cuda"; ${findCuda().problem ?? 'nvcc is there'})`;
  const { cuda } = inspectAddon(CUDA_ADDON);
  if (cuda.deviceCount === 0) return cuda.problem;
  return cuda.deviceCount >= count ? null : `${count} are needed, and ${cuda.deviceCount} can be used`;
}

/** False, after a line that says why, where the tests cannot run. */
async function canTest(count = 1) {
  await prepare();
  const problem = deviceProblem(count);
  if (problem !== null) process.stdout.write(`GPU tests skipped: no CUDA device can be used: ${problem}\n`);
  return problem === null;
}

/** Takes `--tp N` out of the arguments; 1 without it. */
function takeRanks(args) {
  const at = args.indexOf('--tp');
  if (at < 0) return 1;
  const [, text] = args.splice(at, 2);
  if (text !== '2') throw new UserError(`--tp must be 2, the number of ranks that there are tests for; received "${text ?? ''}".`);
  return Number(text);
}

async function main() {
  const given = process.argv.slice(2).filter((arg) => arg !== '--progress');
  const ranks = takeRanks(given);
  if (!(await canTest(ranks))) return 0;
  const progress = process.argv.includes('--progress') ? [`--reporters=${path.join(__dirname, 'progress-reporter.js')}`] : [];
  const folders = given.some((arg) => arg.startsWith('test/')) ? [] : ranks > 1 ? OF_RANKS : FOLDERS;
  // Four processes share the device well; each needs a context of its own. Where ranks of a group share a device, loading a kernel when
  // it first runs would wait for a rank that waits for this one: so kernels are loaded at the start.
  const { code, counts } = await runJest([...progress, '--maxWorkers=4', ...folders, ...given], { ...process.env, KVASIR_TEST_DEVICE: 'cuda', CUDA_MODULE_LOADING: 'EAGER' });
  if (counts === null) throw new UserError('jest ran no tests.');
  process.stdout.write(`${closingLine(counts)}\n`);
  return counts.failed > 0 ? 1 : code;
}

module.exports = { canTest };

if (require.main === module) runMain(main);
