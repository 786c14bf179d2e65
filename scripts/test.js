'use strict';
// `npm test`: sets up, builds, type-checks the tests, runs jest (further arguments go to it) and closes with "N passed, N failed".

const { spawn } = require('node:child_process');
const path = require('node:path');
const { ROOT, UserError, buildSwitch, run, runMain } = require('./common.js');
const { ensureDependencies } = require('./setup.js');
const { ensureNative } = require('./build-native.js');
const { ensureTs, tscPath } = require('./build-ts.js');
const { findCuda } = require('./toolchain.js');

async function checkTypes() {
  const code = await run(process.execPath, [tscPath(), '-p', path.join(ROOT, 'test', 'tsconfig.json')]);
  if (code !== 0) throw new UserError('the tests do not type-check; TypeScript reported the errors above.');
}

async function checkCuda() {
  const reason = buildSwitch() === 'never' ? 'KVASIR_BUILD=never' : findCuda().problem;
  if (reason !== null) {
    process.stderr.write(`The CUDA sources are not compiled: ${reason}.\n`);
    return;
  }
  const code = await run(process.execPath, [path.join(__dirname, 'build-cuda-check.js')]);
  if (code !== 0) throw new UserError('the CUDA addon cannot be built or loaded; the error above says why.');
}

/** "N passed, N failed[, N skipped]". A file that could not even be loaded counts as one failed test. */
function closingLine(counts) {
  const line = `${counts.passed} passed, ${counts.failed} failed`;
  return counts.skipped > 0 ? `${line}, ${counts.skipped} skipped` : line;
}

/** Runs jest in a process of its own; a reporter sends the counts, so that our line comes after everything jest prints. */
function runJest(args, env = process.env) {
  const jest = path.join(path.dirname(require.resolve('jest/package.json', { paths: [ROOT] })), 'bin', 'jest.js');
  const reporter = path.join(__dirname, 'count-reporter.js');
  return new Promise((resolve, reject) => {
    let counts = null;
    const child = spawn(process.execPath, [jest, '--ci', '--reporters=default', `--reporters=${reporter}`, ...args], {
      cwd: ROOT, env, stdio: ['inherit', 'inherit', 'inherit', 'ipc'],
    });
    child.on('message', (message) => { counts = message; });
    child.on('error', reject);
    child.on('close', (code) => resolve({ code: code ?? 1, counts }));
  });
}

async function main() {
  await ensureDependencies();
  await ensureNative();
  await ensureTs();
  await checkTypes();
  await checkCuda();
  const { code, counts } = await runJest(process.argv.slice(2));
  if (counts === null) return code; // jest was asked for something else than running tests, or never came to run any
  process.stdout.write(`${closingLine(counts)}\n`);
  return counts.failed > 0 ? 1 : code;
}

module.exports = { closingLine, runJest };

if (require.main === module) runMain(main);
