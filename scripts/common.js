'use strict';
// What every script shares: where the package is, how a problem of the user's machine is reported, hashing, running, locking.
// Plain Node only: these scripts run before node_modules exists.

const { spawn, spawnSync } = require('node:child_process');
const crypto = require('node:crypto');
const fs = require('node:fs');
const path = require('node:path');

const ROOT = path.resolve(__dirname, '..');

/** A problem that the person at the keyboard can solve: reported as one sentence, without a stack. */
class UserError extends Error {}

/** True in a clone of the repository, false in an installed package (which ships neither lib/ nor tsconfig.json). */
function isCheckout() {
  return fs.existsSync(path.join(ROOT, 'tsconfig.json')) && fs.existsSync(path.join(ROOT, 'lib'));
}

/** Runs a script's main function and turns what it throws into an exit code. */
function runMain(main) {
  main().then(
    (code) => { process.exitCode = code ?? 0; },
    (error) => {
      process.stderr.write(`error: ${error instanceof UserError ? error.message : error.stack}\n`);
      process.exitCode = 1;
    },
  );
}

/** Every file below `dir` (relative to the root, with / separators) whose name passes `accept`, sorted. */
function listFiles(dir, accept = () => true) {
  const found = [];
  const visit = (relative) => {
    for (const entry of fs.readdirSync(path.join(ROOT, relative), { withFileTypes: true })) {
      const child = `${relative}/${entry.name}`;
      if (entry.isDirectory()) visit(child);
      else if (accept(child)) found.push(child);
    }
  };
  if (fs.existsSync(path.join(ROOT, dir))) visit(dir);
  return found.sort();
}

/** SHA-256 (hex) over names and contents of files and over any further JSON values. Contents, not times: a checkout changes times. */
function hashInputs(files, ...values) {
  const hash = crypto.createHash('sha256').update(JSON.stringify(values));
  for (const file of files) hash.update(`\0${file}\0`).update(fs.readFileSync(path.join(ROOT, file)));
  return hash.digest('hex');
}

function readJson(file) {
  try {
    return JSON.parse(fs.readFileSync(file, 'utf8'));
  } catch (error) {
    if (error.code === 'ENOENT' || error.code === 'ENOTDIR' || error instanceof SyntaxError) return null;
    throw error;
  }
}

/** The version of an installed dependency, or null. Plain resolution, so hoisted and linked trees work. */
function dependencyVersion(name) {
  try {
    return readJson(require.resolve(`${name}/package.json`, { paths: [ROOT] })).version;
  } catch (error) {
    if (error.code === 'MODULE_NOT_FOUND') return null;
    throw error;
  }
}

/** The first of `names` that PATH holds as an executable, as a full path; null when none. */
function findOnPath(names) {
  const suffixes = process.platform === 'win32' ? ['.exe', '.cmd', ''] : [''];
  for (const name of names) {
    if (path.isAbsolute(name)) {
      if (fs.existsSync(name)) return name;
      continue;
    }
    for (const dir of (process.env.PATH ?? '').split(path.delimiter).filter(Boolean)) {
      for (const suffix of suffixes) {
        const candidate = path.join(dir, name + suffix);
        if (isExecutableFile(candidate)) return candidate;
      }
    }
  }
  return null;
}

function isExecutableFile(file) {
  try {
    fs.accessSync(file, fs.constants.X_OK);
    return fs.statSync(file).isFile();
  } catch {
    return false; // not there, or not ours to run: either way not a candidate
  }
}

/** First line that a program prints, or null when it cannot be run. */
function firstLineOf(program, args) {
  const result = spawnSync(program, args, { cwd: ROOT, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
  return result.status === 0 ? result.stdout.split('\n')[0].trim() : null;
}

/** Runs a program with this process's terminal; resolves with its exit code (128 + signal number is not told apart: 1). */
function run(program, args, options = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { cwd: ROOT, stdio: 'inherit', ...options });
    child.on('error', reject);
    child.on('close', (code) => resolve(code ?? 1));
  });
}

/** Keeps two builds of one tree from writing the same files: the second waits for the first. */
async function withLock(name, work) {
  const lock = path.join(ROOT, 'build', `.${name}.lock`);
  fs.mkdirSync(path.dirname(lock), { recursive: true });
  for (let told = false; !tryLock(lock); told = true) {
    if (!told) process.stderr.write(`Waiting for another build of ${name} to end ...\n`);
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  try {
    return await work();
  } finally {
    fs.rmSync(lock, { force: true });
  }
}

function tryLock(lock) {
  try {
    fs.writeFileSync(lock, String(process.pid), { flag: 'wx' });
    return true;
  } catch (error) {
    if (error.code !== 'EEXIST') throw error;
  }
  let owner;
  try {
    owner = Number(fs.readFileSync(lock, 'utf8'));
    if (owner > 0) process.kill(owner, 0);
    else if (Date.now() - fs.statSync(lock).mtimeMs > 5000) throw new Error('no owner was written');
  } catch (error) {
    if (error.code === 'EPERM') return false; // alive, another user's
    fs.rmSync(lock, { force: true }); // its owner is gone
  }
  return false;
}

/** Removes what an outer make or node-gyp leaves in the environment, which would leak into our own build. */
function cleanBuildEnv() {
  const env = { ...process.env };
  for (const name of ['MAKEFLAGS', 'MFLAGS', 'MAKELEVEL', 'BUILDTYPE']) delete env[name];
  return env;
}

/** The build switch: `auto` builds what changed, `force` builds anew, `never` takes what is there. */
function buildSwitch() {
  const value = process.env.KVASIR_BUILD ?? 'auto';
  if (!['auto', 'force', 'never'].includes(value)) {
    throw new UserError(`KVASIR_BUILD must be auto, force or never; received "${value}".`);
  }
  return value;
}

module.exports = {
  ROOT, UserError, isCheckout, runMain, listFiles, hashInputs, readJson, dependencyVersion,
  findOnPath, firstLineOf, run, withLock, cleanBuildEnv, buildSwitch,
};
