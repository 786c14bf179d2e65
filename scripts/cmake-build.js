'use strict';
// One CMake build of native/ through cmake-js: what build-native.js (CPU) and build-cuda.js (CUDA) share. A build is described by a
// target; nothing runs when its sources, options and headers are those of its last build.

const { spawn } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const {
  ROOT, UserError, buildSwitch, cleanBuildEnv, dependencyVersion, firstLineOf, hashInputs, listFiles, readJson, withLock,
} = require('./common.js');
const { findGloo } = require('./toolchain.js');

const LOG_LINES_SHOWN = 40;

/**
 * @typedef {object} BuildTarget
 * @property {string} name of the lock, and what the build is called in messages: "native", "cuda"
 * @property {string} outputDir where kvasir.node, kvasir-gloo.so and kvasir.json go
 * @property {string} cmakeDir CMake's own directory
 * @property {string} log file for the build's output
 * @property {() => string[]} sources files that decide whether the build is up to date
 * @property {Record<string, string>} defines CMake variables
 * @property {Record<string, unknown>} key further values (tool versions) with which a build must start afresh
 * @property {() => string | null} problem what keeps this machine from building, in one sentence
 * @property {() => Record<string, unknown>} metadata rows of kvasir.json beside the common ones
 */

const addonOf = (target) => path.join(target.outputDir, 'kvasir.node');
/** Made only where Gloo is installed, see native/CMakeLists.txt. */
const pluginOf = (target) => path.join(target.outputDir, 'kvasir-gloo.so');
const metadataOf = (target) => path.join(target.outputDir, 'kvasir.json');

/** What decides whether CMake must be configured from scratch: it does not notice these by itself. */
function configureKey(target) {
  return {
    root: ROOT,
    arch: process.arch,
    platform: process.platform,
    cxx: process.env.CXX ?? null,
    cc: process.env.CC ?? null,
    cmakeJs: dependencyVersion('cmake-js'),
    nodeAddonApi: dependencyVersion('node-addon-api'),
    nodeApiHeaders: dependencyVersion('node-api-headers'),
    ...target.defines,
    ...target.key,
  };
}

function isUpToDate(target, inputs) {
  const made = readJson(metadataOf(target));
  return fs.existsSync(addonOf(target)) && made?.inputs === inputs && (!made.gloo || fs.existsSync(pluginOf(target)));
}

/** Starts afresh when the cache was made with another configuration, or was left without its record or its build files by a run that failed. */
function dropStaleConfiguration(target, key, force) {
  const record = path.join(target.cmakeDir, 'kvasir-configure.json');
  const generated = process.platform === 'win32' || ['build.ninja', 'Makefile'].some((file) => fs.existsSync(path.join(target.cmakeDir, file)));
  if (force || !generated || JSON.stringify(readJson(record)) !== JSON.stringify(key)) fs.rmSync(target.cmakeDir, { recursive: true, force: true });
  fs.mkdirSync(target.cmakeDir, { recursive: true });
  fs.writeFileSync(record, JSON.stringify(key));
  lookForGlooAgain(target);
}

/** cmake-js configures once. Without its cache CMake does so again, and looks for Gloo; what was compiled before stays. */
function lookForGlooAgain(target) {
  const record = path.join(target.cmakeDir, 'kvasir-gloo.json');
  const found = findGloo();
  if (JSON.stringify(readJson(record)) !== JSON.stringify(found)) fs.rmSync(path.join(target.cmakeDir, 'CMakeCache.txt'), { force: true });
  fs.writeFileSync(record, JSON.stringify(found));
}

function cmakeJsCommand(target) {
  const entry = require.resolve('cmake-js/package.json', { paths: [ROOT] });
  return [
    process.execPath, path.join(path.dirname(entry), 'bin', 'cmake-js'), 'build',
    '-d', path.join(ROOT, 'native'),
    '-O', target.cmakeDir,
    '-p', String(os.availableParallelism()),
    `--CDCMAKE_LIBRARY_OUTPUT_DIRECTORY=${target.outputDir}`,
    ...Object.entries(target.defines).map(([name, value]) => `--CD${name}=${value}`),
  ];
}

/** Shows how far make ("[ 12%]") or ninja ("[3/40]") is: one line rewritten on a terminal, a line per quarter elsewhere. */
function progressPrinter() {
  let lastQuarter = 0;
  return (text) => {
    for (const match of text.matchAll(/^\[\s*(?:(\d+)%|(\d+)\/(\d+))\]/gm)) {
      const percent = match[1] === undefined ? Math.floor((100 * Number(match[2])) / Number(match[3])) : Number(match[1]);
      if (process.stderr.isTTY) {
        process.stderr.write(`\r  ${String(percent).padStart(3)}%${percent === 100 ? '\n' : ''}`);
      } else if (Math.floor(percent / 25) > lastQuarter) {
        lastQuarter = Math.floor(percent / 25);
        process.stderr.write(`  ${percent}%\n`);
      }
    }
  };
}

/** Runs a program with its output in the target's log; resolves with the exit code. */
function runLogged(target, [program, ...args], flags = 'w') {
  const log = fs.createWriteStream(target.log, { flags });
  const showProgress = progressPrinter();
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { cwd: ROOT, env: cleanBuildEnv(), stdio: ['ignore', 'pipe', 'pipe'] });
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (chunk) => {
        log.write(chunk);
        showProgress(String(chunk));
      });
    }
    child.on('error', reject);
    child.on('close', (code) => log.end(() => resolve(code ?? 1)));
  });
}

function failure(target, what) {
  const tail = fs.readFileSync(target.log, 'utf8').trimEnd().split('\n').slice(-LOG_LINES_SHOWN).join('\n');
  return new UserError(`the ${target.name} build ${what}. The last lines of ${path.relative(ROOT, target.log)}:\n${tail}`);
}

/** Value of a variable in what CMake wrote about a compiler ("CXX", "CUDA"), for example its version. */
function compilerFact(target, language, name) {
  const dir = path.relative(ROOT, path.join(target.cmakeDir, 'CMakeFiles'));
  const files = listFiles(dir, (file) => file.endsWith(`/CMake${language}Compiler.cmake`));
  const text = files.length === 0 ? '' : fs.readFileSync(path.join(ROOT, files[0]), 'utf8');
  return new RegExp(`set\\(CMAKE_${language}_${name} "([^"]*)"\\)`).exec(text)?.[1] ?? 'unknown';
}

/** Instruction sets that kernels were compiled for: the suffix of a kernel's file says which (see native/CMakeLists.txt). */
function isaList() {
  if (process.arch !== 'x64') return ['portable'];
  const suffixes = listFiles('native/cpu').map((file) => /_(avx\w+)\.cc$/.exec(file)?.[1]).filter(Boolean);
  return ['portable', ...new Set(suffixes)];
}

function writeMetadata(target, inputs) {
  const metadata = {
    version: readJson(path.join(ROOT, 'package.json')).version,
    platform: process.platform,
    arch: process.arch,
    napi: 8,
    compiler: `${compilerFact(target, 'CXX', 'COMPILER_ID')} ${compilerFact(target, 'CXX', 'COMPILER_VERSION')}`,
    isa: isaList(),
    gloo: fs.existsSync(pluginOf(target)),
    ...target.metadata(),
    commit: fs.existsSync(path.join(ROOT, '.git')) ? firstLineOf('git', ['rev-parse', '--verify', '-q', 'HEAD']) : null,
    inputs,
  };
  fs.writeFileSync(metadataOf(target), `${JSON.stringify(metadata, null, 2)}\n`);
}

async function build(target, key, inputs, force) {
  const problem = target.problem();
  if (problem !== null) throw new UserError(problem);
  if (key.cmakeJs === null) throw new UserError('cmake-js is not installed; run "npm ci" first.');
  const addon = path.relative(ROOT, addonOf(target));
  const started = Date.now();
  process.stderr.write(`Building ${addon} (log: ${path.relative(ROOT, target.log)}) ...\n`);
  dropStaleConfiguration(target, key, force);
  fs.rmSync(metadataOf(target), { force: true });
  fs.rmSync(pluginOf(target), { force: true }); // Gloo may have been removed
  const code = await runLogged(target, cmakeJsCommand(target));
  if (code !== 0) throw failure(target, `failed with exit code ${code}`);
  if (!fs.existsSync(addonOf(target))) throw failure(target, `ended well but made no ${addon}`);
  writeMetadata(target, inputs);
  process.stderr.write(`Built ${addon} in ${((Date.now() - started) / 1000).toFixed(1)} s.\n`);
}

/** Resolves when the target's kvasir.node is that of the sources. KVASIR_BUILD: see the README. */
async function ensureAddon(target) {
  const mode = buildSwitch();
  if (mode === 'never') {
    if (!fs.existsSync(addonOf(target))) throw new UserError(`KVASIR_BUILD=never, but there is no ${path.relative(ROOT, addonOf(target))} to use.`);
    return;
  }
  const key = configureKey(target);
  // Gloo is no part of the key: when it comes or goes, all else need not be compiled again.
  const inputs = hashInputs(target.sources(), key, findGloo());
  if (mode === 'auto' && isUpToDate(target, inputs)) return;
  await withLock(target.name, async () => {
    if (mode === 'force' || !isUpToDate(target, inputs)) await build(target, key, inputs, mode === 'force');
  });
}

/** Builds a further CMake target in the directory of an addon that was built before, for example its benchmarks. */
async function buildExtra(target, cmakeTarget) {
  const command = ['cmake', '--build', target.cmakeDir, '--target', cmakeTarget, '--parallel', String(os.availableParallelism())];
  await withLock(target.name, async () => {
    const code = await runLogged(target, command, 'a');
    if (code !== 0) throw failure(target, `of ${cmakeTarget} failed with exit code ${code}`);
  });
}

module.exports = { ensureAddon, buildExtra, compilerFact };
