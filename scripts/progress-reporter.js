'use strict';
// A jest reporter that names each test when it begins and says which took long, on standard error: what a run that never ends, or that
// something ended from outside, was doing is its last line (scripts/test-gpu.js --progress).

const path = require('node:path');

const SLOW_MS = 2000;

module.exports = class ProgressReporter {
  constructor() {
    this.begin = Date.now();
  }

  line(file, text) {
    process.stderr.write(`[${((Date.now() - this.begin) / 1000).toFixed(1)} s] ${path.basename(file)}: ${text}\n`);
  }

  onTestFileStart(test) {
    this.line(test.path, 'begins');
  }

  onTestCaseStart(test, info) {
    this.line(test.path, info.fullName);
  }

  onTestCaseResult(test, result) {
    if (result.duration > SLOW_MS) this.line(test.path, `took ${(result.duration / 1000).toFixed(1)} s: ${result.fullName}`);
  }

  onTestFileResult(test) {
    this.line(test.path, 'ended');
  }
};
