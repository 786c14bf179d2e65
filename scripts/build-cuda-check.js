'use strict';
// Builds the whole CUDA addon for one architecture and loads it, without a GPU: `npm test` does this where nvcc is installed, so
// that sources which no test of such a machine runs still compile, link and load.

const { spawnSync } = require('node:child_process');
const path = require('node:path');
const { ROOT, UserError, runMain } = require('./common.js');
const { ensureCuda } = require('./build-cuda.js');

/** Loaded in a process of its own: a broken addon may end the process. */
const PROGRAM = 'const a = require(process.argv[1]); console.log(JSON.stringify({ cpu: a.cpuInfo(), cuda: a.cudaInfo() }));';

/** What the addon says of this machine: { cpu: { isa, bestIsa }, cuda: { built, deviceCount, problem, devices } }. */
function inspectAddon(addon) {
  const result = spawnSync(process.execPath, ['-e', PROGRAM, addon], { encoding: 'utf8' });
  const name = path.relative(ROOT, addon);
  if (result.status !== 0) throw new UserError(`${name} was built but cannot be loaded:\n${result.stderr || `the process ended by ${result.signal}`}`);
  return JSON.parse(result.stdout);
}

async function main() {
  const addon = await ensureCuda();
  const { cuda } = inspectAddon(addon);
  if (!cuda.built) throw new UserError(`${path.relative(ROOT, addon)} says that it was built without CUDA.`);
  const found = cuda.deviceCount > 0 ? `${cuda.deviceCount} CUDA device(s)` : `no CUDA device (${cuda.problem})`;
  process.stderr.write(`The CUDA addon compiles and loads; it finds ${found}.\n`);
}

module.exports = { inspectAddon };

if (require.main === module) runMain(main);
