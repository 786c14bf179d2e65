#!/usr/bin/env node
'use strict';
// The whole engine under a long queue: LLM.generate() with thousands of requests at once. Prints one JSON line per queue length (what
// scheduling costs in JavaScript per step, against what the step takes), then one line for the whole run.
//   node scripts/bench-queue.js [--model DIR] [--requests 10000] [--input-len 16] [--output-len 16] [--max-num-seqs 256] [--dtype float32]
// (scripts/bench-scheduler.js measures the scheduler alone.)

const path = require('node:path');
const { parseArgs } = require('node:util');
const { ROOT, UserError, runMain } = require('./common.js');

/** Steps around a queue length that its line sums up. */
const WINDOW = 24;

/** Wraps the two methods that the engine core calls in every step; one record per step. */
function watchScheduler(Scheduler) {
  const steps = [];
  const records = new WeakMap();
  let lastEnd = performance.now();
  const { schedule, updateFromOutput } = Scheduler.prototype;
  Scheduler.prototype.schedule = function () {
    const numWaiting = this.numWaiting;
    const start = performance.now();
    const step = schedule.call(this);
    const end = performance.now();
    const record = { numWaiting, scheduleMicros: (end - start) * 1e3, numTokens: step.totalNumScheduledTokens, numRequests: step.scheduled.length };
    records.set(step, record);
    steps.push(record);
    return step;
  };
  Scheduler.prototype.updateFromOutput = function (step, output) {
    const start = performance.now();
    const outputs = updateFromOutput.call(this, step, output);
    const end = performance.now();
    const record = records.get(step);
    record.updateMicros = (end - start) * 1e3;
    // From result to result: the next step may be scheduled while this one runs.
    record.stepMillis = end - lastEnd;
    lastEnd = end;
    return outputs;
  };
  return steps;
}

const median = (values) => values.slice().sort((a, b) => a - b)[values.length >> 1];
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const schedulingOf = (step) => step.scheduleMicros + step.updateMicros;
const round = (value) => Math.round(value * 100) / 100;

function summary(steps) {
  const of = (field) => round(median(steps.map((s) => s[field])));
  return {
    numSteps: steps.length, numRequests: of('numRequests'), numTokens: of('numTokens'),
    scheduleMicros: of('scheduleMicros'), updateMicros: of('updateMicros'),
    // The mean holds the steps that admit a whole batch; the median is the ordinary step.
    schedulingMicros: round(median(steps.map(schedulingOf))), meanSchedulingMicros: round(mean(steps.map(schedulingOf))), stepMillis: of('stepMillis'),
  };
}

function queueLengths(most) {
  return [1, 0.8, 0.5, 0.25, 0.1, 0.02, 0].map((share) => Math.floor(most * share));
}

/** The steps at which about `length` requests waited: the first with no more, and what follows. */
function windowAt(steps, length) {
  const from = steps.findIndex((s) => s.numWaiting <= length);
  return steps.slice(from, from + WINDOW);
}

function positive(values, name) {
  const value = Number(values[name]);
  if (!Number.isInteger(value) || value < 1) throw new UserError(`--${name}: expected a positive integer, received ${values[name]}.`);
  return value;
}

async function main() {
  const { values } = parseArgs({
    options: {
      model: { type: 'string', default: path.join(ROOT, 'examples', 'models', 'kvasir-tales-5m') }, requests: { type: 'string', default: '10000' },
      'input-len': { type: 'string', default: '16' }, 'output-len': { type: 'string', default: '16' }, 'max-num-seqs': { type: 'string', default: '256' },
      dtype: { type: 'string', default: 'auto' },
    },
  });
  const [numRequests, inputLen, outputLen, maxNumSeqs] = ['requests', 'input-len', 'output-len', 'max-num-seqs'].map((name) => positive(values, name));
  const { LLM } = require('../dist/index.js');
  const steps = watchScheduler(require('../dist/core/scheduler.js').Scheduler);
  const llm = await LLM.create({ model: values.model, dtype: values.dtype, maxNumSeqs });
  try {
    const { vocabSize } = llm.config.model;
    const prompts = Array.from({ length: numRequests }, (_, i) => ({ promptTokenIds: Array.from({ length: inputLen }, (_, k) => (i * 31 + k * 7 + 5) % vocabSize) }));
    const params = { temperature: 0, maxTokens: outputLen, ignoreEos: true };
    // Compiles the hot paths, so that the first steps are not slower than those of a server that runs.
    await llm.generate(prompts.slice(0, 4 * maxNumSeqs), params);
    await llm.resetPrefixCache();
    steps.length = 0;
    const start = performance.now();
    await llm.generate(prompts, params);
    const seconds = (performance.now() - start) / 1e3;
    for (const length of queueLengths(numRequests)) {
      const window = windowAt(steps, length);
      if (window.length > 0) console.log(JSON.stringify({ queueLength: length, ...summary(window) }));
    }
    const schedulingSeconds = steps.reduce((sum, s) => sum + schedulingOf(s), 0) / 1e6;
    console.log(JSON.stringify({
      model: path.basename(values.model), dtype: llm.config.model.dtype, threads: llm.config.device.numThreads, requests: numRequests, inputLen, outputLen, maxNumSeqs,
      steps: steps.length, seconds: round(seconds), requestsPerSecond: round(numRequests / seconds), outputTokensPerSecond: round((numRequests * outputLen) / seconds),
      schedulingSeconds: round(schedulingSeconds), schedulingMicrosPerStep: round((schedulingSeconds * 1e6) / steps.length),
    }));
  } finally {
    await llm.close();
  }
}

runMain(main);
