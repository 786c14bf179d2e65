'use strict';
// A jest reporter that sends the counts of a run to the process that started jest (scripts/test.js).

module.exports = class CountReporter {
  onRunComplete(_contexts, results) {
    process.send?.({
      passed: results.numPassedTests,
      failed: results.numFailedTests + results.numRuntimeErrorTestSuites,
      skipped: results.numPendingTests + results.numTodoTests,
    });
  }
};
