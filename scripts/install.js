'use strict';
// npm's install hook for people who install the package. It never downloads anything and never makes an install fail,
// unless KVASIR_BUILD=force asks for that. In a clone it does nothing: there `npm start` and `npm test` build.

const { UserError, buildSwitch, isCheckout, runMain } = require('./common.js');
const { ensureNative } = require('./build-native.js');
const { findToolchain } = require('./toolchain.js');

const LATER = 'The package is installed without its native addon; once that is solved, run "npx kvasir build" (or "npm rebuild kvasir").';

async function main() {
  const mode = buildSwitch();
  if (isCheckout() || mode === 'never') return 0;
  const { problem } = findToolchain();
  if (problem !== null && mode !== 'force') {
    process.stderr.write(`${problem} ${LATER}\n`);
    return 0;
  }
  try {
    await ensureNative();
    return 0;
  } catch (error) {
    if (!(error instanceof UserError) || mode === 'force') throw error;
    process.stderr.write(`${error.message}\n${LATER}\n`);
    return 0;
  }
}

runMain(main);
