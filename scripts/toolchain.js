'use strict';
// Finds CMake, a build tool and a C++20 compiler, and says in one sentence what to install when one is missing.

const { spawnSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { findOnPath, firstLineOf } = require('./common.js');

/** Oldest versions whose C++20 the sources rely on. Apple numbers its clang by Xcode. */
const MIN_GCC = 11;
const MIN_CLANG = 14;
const MIN_CMAKE = [3, 20];

/** How each platform installs the tools; the first package manager that is present is named. */
const INSTALL_HINTS = [
  { when: () => process.platform === 'darwin', text: 'run "xcode-select --install" for the compiler and "brew install cmake" for CMake' },
  { when: () => process.platform === 'win32', text: 'install the Visual Studio Build Tools with "Desktop development with C++", which bring CMake' },
  { when: () => findOnPath(['apt-get']), text: 'run "apt-get install g++ make cmake" (with sudo unless you are root)' },
  { when: () => findOnPath(['dnf']), text: 'run "dnf install gcc-c++ make cmake" (with sudo unless you are root)' },
  { when: () => findOnPath(['apk']), text: 'run "apk add g++ make cmake linux-headers"' },
  { when: () => findOnPath(['pacman']), text: 'run "pacman -S gcc make cmake" (with sudo unless you are root)' },
  { when: () => findOnPath(['zypper']), text: 'run "zypper install gcc-c++ make cmake" (with sudo unless you are root)' },
  { when: () => true, text: 'install g++ (or clang++), make and cmake with your package manager' },
];

function installHint() {
  return INSTALL_HINTS.find((row) => row.when()).text;
}

/** Compiler names in the order CMake tries them; CXX wins as it does there. */
function compilerNames() {
  const named = (process.env.CXX ?? '').trim().split(/\s+/)[0];
  return named ? [named] : ['c++', 'g++', 'clang++'];
}

/** null when the compiler is new enough or of an unknown kind, else what is wrong with it. */
function compilerTooOld(compiler) {
  const banner = firstLineOf(compiler, ['--version']) ?? '';
  const major = Number(firstLineOf(compiler, ['-dumpversion'])?.split('.')[0]);
  const isClang = /clang/i.test(banner);
  const least = isClang ? MIN_CLANG : MIN_GCC;
  return Number.isInteger(major) && major < least
    ? `${compiler} is version ${major}, but C++20 needs ${isClang ? 'clang' : 'GCC'} ${least} or newer`
    : null;
}

function cmakeTooOld(cmake) {
  const version = /(\d+)\.(\d+)/.exec(firstLineOf(cmake, ['--version']) ?? '');
  if (version === null) return `"${cmake} --version" does not run`;
  const [major, minor] = [Number(version[1]), Number(version[2])];
  const tooOld = major < MIN_CMAKE[0] || (major === MIN_CMAKE[0] && minor < MIN_CMAKE[1]);
  return tooOld ? `CMake is version ${major}.${minor}, but ${MIN_CMAKE.join('.')} or newer is needed` : null;
}

/** "a", "a and b", "a, b and c". */
function inWords(items) {
  return items.length < 2 ? items.join('') : `${items.slice(0, -1).join(', ')} and ${items.at(-1)}`;
}

/**
 * Looks for everything that a build needs.
 * @returns {{ problem: string | null, cmake: string | null, compiler: string | null }} `problem` is one sentence, null when all is there.
 */
function findToolchain() {
  const cmake = findOnPath(['cmake']);
  // Visual Studio is found by cmake-js itself; a compiler on PATH is not how Windows works.
  const compiler = process.platform === 'win32' ? null : findOnPath(compilerNames());
  const missing = [];
  if (process.platform !== 'win32') {
    if (compiler === null) missing.push('no C++20 compiler was found');
    if (findOnPath(['ninja', 'make']) === null) missing.push('neither make nor ninja was found');
  }
  if (cmake === null) missing.push('CMake was not found');
  const tooOld = [compiler && compilerTooOld(compiler), cmake && cmakeTooOld(cmake)].filter(Boolean);
  const problems = [...missing, ...tooOld];
  return {
    problem: problems.length === 0 ? null : `Kvasir's native addon cannot be built: ${inWords(problems)}; ${installHint()}.`,
    cmake,
    compiler,
  };
}

/** Oldest CUDA whose nvcc knows C++20 and sm_90a, and oldest CMake that passes both on. */
const MIN_CUDA = [12, 0];
const MIN_CUDA_CMAKE = [3, 25];

const before = (version, least) => version[0] < least[0] || (version[0] === least[0] && version[1] < least[1]);

function versionOf(program, args, pattern) {
  const result = spawnSync(program, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
  const match = result.status === 0 ? pattern.exec(result.stdout) : null;
  return match === null ? null : [Number(match[1]), Number(match[2])];
}

/**
 * Looks for what the CUDA backend needs beside {@link findToolchain}.
 * @returns {{ problem: string | null, nvcc: string | null, version: string | null }} `version` is CUDA's, for example "13.0"
 */
function findCuda() {
  const nvcc = findOnPath(['nvcc']);
  if (nvcc === null) return { problem: 'there is no nvcc on PATH (it comes with the CUDA toolkit)', nvcc, version: null };
  const cuda = versionOf(nvcc, ['--version'], /release (\d+)\.(\d+)/);
  if (cuda === null) return { problem: `"${nvcc} --version" does not run`, nvcc, version: null };
  const version = cuda.join('.');
  if (before(cuda, MIN_CUDA)) return { problem: `nvcc is of CUDA ${version}, but ${MIN_CUDA.join('.')} or newer is needed`, nvcc, version };
  const cmake = versionOf('cmake', ['--version'], /(\d+)\.(\d+)/);
  if (cmake !== null && before(cmake, MIN_CUDA_CMAKE)) {
    return { problem: `CMake is version ${cmake.join('.')}, but CUDA needs ${MIN_CUDA_CMAKE.join('.')} or newer`, nvcc, version };
  }
  return { problem: null, nvcc, version };
}

/** Headers of Gloo where CMake looks by itself: the plugin for ranks on CPUs is built when they are there. */
function findGloo() {
  const prefixes = (process.env.CMAKE_PREFIX_PATH ?? '').split(path.delimiter).filter(Boolean);
  return [...prefixes, '/usr/local', '/usr'].filter((prefix) => fs.existsSync(path.join(prefix, 'include', 'gloo', 'transport', 'unbound_buffer.h')));
}

module.exports = { findToolchain, findCuda, findGloo };
