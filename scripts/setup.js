'use strict';
// Makes node_modules match package-lock.json, and does nothing (not even start npm) when it already does.

const fs = require('node:fs');
const path = require('node:path');
const { ROOT, UserError, isCheckout, readJson, run, runMain, withLock } = require('./common.js');

const OLDEST_NODE = [20, 17];

function checkNode() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  if (major < OLDEST_NODE[0] || (major === OLDEST_NODE[0] && minor < OLDEST_NODE[1])) {
    throw new UserError(`Kvasir needs Node.js ${OLDEST_NODE.join('.')} or newer; this is ${process.versions.node}.`);
  }
}

/**
 * True when npm's own record of what it installed (node_modules/.package-lock.json, written last) agrees with the lockfile.
 * Packages of other platforms are in the lockfile but never installed, so only what is not optional must be there.
 */
function dependenciesMatch() {
  const wanted = readJson(path.join(ROOT, 'package-lock.json'));
  const installed = readJson(path.join(ROOT, 'node_modules', '.package-lock.json'));
  if (wanted === null) throw new UserError('package-lock.json is missing or damaged; restore it with "git checkout package-lock.json".');
  if (installed === null) return false;
  for (const [name, entry] of Object.entries(wanted.packages)) {
    if (name === '') continue;
    const found = installed.packages[name];
    const optional = entry.optional || entry.devOptional || entry.peer;
    if (found ? found.version !== entry.version : !optional) return false;
  }
  return Object.keys(installed.packages).every((name) => name in wanted.packages);
}

async function npmCi() {
  process.stderr.write('Installing dependencies (npm ci) ...\n');
  const args = ['ci', '--include=dev', '--no-fund', '--no-audit'];
  // Under npm, its own entry file is known; otherwise npm is found on PATH (a .cmd file on Windows, hence the shell).
  const npm = process.env.npm_execpath;
  const code = npm && /\.[cm]?js$/.test(npm)
    ? await run(process.execPath, [npm, ...args])
    : await run('npm', args, { shell: process.platform === 'win32' });
  if (code !== 0) throw new UserError(`"npm ${args.join(' ')}" failed with exit code ${code}; its output above says why.`);
}

/** Resolves when every dependency of the checkout is installed. */
async function ensureDependencies() {
  checkNode();
  if (!isCheckout() || dependenciesMatch()) return;
  await withLock('node_modules', async () => {
    if (!dependenciesMatch()) await npmCi();
  });
  if (!fs.existsSync(path.join(ROOT, 'node_modules'))) throw new UserError('npm ci ended well but left no node_modules.');
}

module.exports = { ensureDependencies };

if (require.main === module) runMain(ensureDependencies);
