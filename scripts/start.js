'use strict';
// `npm start`: sets up whatever is missing, then tells a story with the example model.

const path = require('node:path');
const { ROOT, run, runMain } = require('./common.js');
const { ensureDependencies } = require('./setup.js');
const { ensureNative } = require('./build-native.js');
const { ensureTs } = require('./build-ts.js');

async function main() {
  await ensureDependencies();
  await ensureNative();
  await ensureTs();
  return run(process.execPath, [path.join(ROOT, 'examples', 'story.js'), ...process.argv.slice(2)]);
}

runMain(main);
