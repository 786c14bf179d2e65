'use strict';
// Builds native/ without CUDA into build/Release/kvasir.node with cmake-js and writes build/Release/kvasir.json beside it.

const path = require('node:path');
const { ROOT, listFiles, runMain } = require('./common.js');
const { ensureAddon } = require('./cmake-build.js');
const { findToolchain } = require('./toolchain.js');

const TARGET = {
  name: 'native',
  outputDir: path.join(ROOT, 'build', 'Release'),
  // Not build/ itself: node-gyp keeps its own Makefile there and empties it on "rebuild".
  cmakeDir: path.join(ROOT, 'build', 'cmake'),
  log: path.join(ROOT, 'build', 'build.log'),
  sources: () => listFiles('native', (file) => !/^native\/(bench|cuda)\/|\.md$/.test(file)),
  defines: {},
  key: {},
  problem: () => findToolchain().problem,
  metadata: () => ({}),
};

/** Resolves when build/Release/kvasir.node is that of the sources. */
async function ensureNative() {
  await ensureAddon(TARGET);
}

module.exports = { ensureNative };

if (require.main === module) runMain(ensureNative);
