'use strict';
// Builds native/ into build/Release/kvasir.node with cmake-js and writes build/Release/kvasir.json beside it.
// Nothing runs when the sources, the options and the headers are those of the last build.

const { spawn } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const {
  ROOT, UserError, buildSwitch, cleanBuildEnv, dependencyVersion, firstLineOf, hashInputs, listFiles, readJson, runMain, withLock,
} = require('./common.js');
const { findToolchain } = require('./toolchain.js');

const OUTPUT_DIR = path.join(ROOT, 'build', 'Release');
const ADDON = path.join(OUTPUT_DIR, 'kvasir.node');
const METADATA = path.join(OUTPUT_DIR, 'kvasir.json');
// Not build/ itself: node-gyp keeps its own Makefile there and empties it on "rebuild".
const CMAKE_DIR = path.join(ROOT, 'build', 'cmake');
const LOG = path.join(ROOT, 'build', 'build.log');
const LOG_LINES_SHOWN = 40;

/** What decides whether CMake must be configured from scratch: it does not notice these by itself. */
function configureKey() {
  return {
    root: ROOT,
    arch: process.arch,
    platform: process.platform,
    cxx: process.env.CXX ?? null,
    cc: process.env.CC ?? null,
    cmakeJs: dependencyVersion('cmake-js'),
    nodeAddonApi: dependencyVersion('node-addon-api'),
    nodeApiHeaders: dependencyVersion('node-api-headers'),
  };
}

function nativeInputs(key) {
  return hashInputs(listFiles('native', (file) => !file.endsWith('.md')), key);
}

function isUpToDate(inputs) {
  return fs.existsSync(ADDON) && readJson(METADATA)?.inputs === inputs;
}

/** Starts afresh when the cache was made with another configuration, or was left without its record by an interrupted run. */
function dropStaleConfiguration(key, force) {
  const record = path.join(CMAKE_DIR, 'kvasir-configure.json');
  if (force || JSON.stringify(readJson(record)) !== JSON.stringify(key)) fs.rmSync(CMAKE_DIR, { recursive: true, force: true });
  fs.mkdirSync(CMAKE_DIR, { recursive: true });
  fs.writeFileSync(record, JSON.stringify(key));
}

function cmakeJsArgs() {
  const entry = require.resolve('cmake-js/package.json', { paths: [ROOT] });
  return [
    path.join(path.dirname(entry), 'bin', 'cmake-js'), 'build',
    '-d', path.join(ROOT, 'native'),
    '-O', CMAKE_DIR,
    '-p', String(require('node:os').availableParallelism()),
    `--CDCMAKE_LIBRARY_OUTPUT_DIRECTORY=${OUTPUT_DIR}`,
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

/** Runs cmake-js with its output in the log; resolves with the exit code. */
function runCmakeJs() {
  const log = fs.createWriteStream(LOG);
  const showProgress = progressPrinter();
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, cmakeJsArgs(), { cwd: ROOT, env: cleanBuildEnv(), stdio: ['ignore', 'pipe', 'pipe'] });
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

function logTail() {
  return fs.readFileSync(LOG, 'utf8').trimEnd().split('\n').slice(-LOG_LINES_SHOWN).join('\n');
}

/** Compiler id and version as CMake found them, for example "GNU 12.2.0". */
function compilerName() {
  const files = listFiles('build/cmake/CMakeFiles', (file) => file.endsWith('/CMakeCXXCompiler.cmake'));
  const text = files.length === 0 ? '' : fs.readFileSync(path.join(ROOT, files[0]), 'utf8');
  const value = (name) => new RegExp(`set\\(${name} "([^"]*)"\\)`).exec(text)?.[1] ?? 'unknown';
  return `${value('CMAKE_CXX_COMPILER_ID')} ${value('CMAKE_CXX_COMPILER_VERSION')}`;
}

/** Instruction sets that kernels were compiled for: the suffix of a kernel's file says which (see native/CMakeLists.txt). */
function isaList() {
  if (process.arch !== 'x64') return ['portable'];
  const suffixes = listFiles('native/cpu').map((file) => /_(avx\w+)\.cc$/.exec(file)?.[1]).filter(Boolean);
  return ['portable', ...new Set(suffixes)];
}

function writeMetadata(inputs) {
  const metadata = {
    version: readJson(path.join(ROOT, 'package.json')).version,
    platform: process.platform,
    arch: process.arch,
    napi: 8,
    compiler: compilerName(),
    isa: isaList(),
    commit: fs.existsSync(path.join(ROOT, '.git')) ? firstLineOf('git', ['rev-parse', '--verify', '-q', 'HEAD']) : null,
    inputs,
  };
  fs.writeFileSync(METADATA, `${JSON.stringify(metadata, null, 2)}\n`);
}

async function build(key, inputs, force) {
  const { problem } = findToolchain();
  if (problem !== null) throw new UserError(problem);
  if (key.cmakeJs === null) throw new UserError('cmake-js is not installed; run "npm ci" first.');
  const started = Date.now();
  process.stderr.write('Building the native addon (log: build/build.log) ...\n');
  dropStaleConfiguration(key, force);
  fs.rmSync(METADATA, { force: true });
  const code = await runCmakeJs();
  if (code !== 0 || !fs.existsSync(ADDON)) {
    const what = code !== 0 ? `failed with exit code ${code}` : `ended well but made no ${path.relative(ROOT, ADDON)}`;
    throw new UserError(`the native build ${what}. The last lines of build/build.log:\n${logTail()}`);
  }
  writeMetadata(inputs);
  process.stderr.write(`Built ${path.relative(ROOT, ADDON)} in ${((Date.now() - started) / 1000).toFixed(1)} s.\n`);
}

/** Resolves when build/Release/kvasir.node is that of the sources. KVASIR_BUILD: see the README. */
async function ensureNative() {
  const mode = buildSwitch();
  if (mode === 'never') {
    if (!fs.existsSync(ADDON)) throw new UserError('KVASIR_BUILD=never, but there is no build/Release/kvasir.node to use.');
    return;
  }
  const key = configureKey();
  const inputs = nativeInputs(key);
  if (mode === 'auto' && isUpToDate(inputs)) return;
  await withLock('native', async () => {
    if (mode === 'force' || !isUpToDate(inputs)) await build(key, inputs, mode === 'force');
  });
}

module.exports = { ensureNative, ADDON, METADATA };

if (require.main === module) runMain(ensureNative);
