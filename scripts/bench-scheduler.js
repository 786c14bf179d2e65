'use strict';
// Time of schedule() + updateFromOutput() by length of the waiting queue, with a model that costs nothing. The scheduler's
// work must follow the requests that run, so the numbers must not grow with the queue.
//
//   npm run build:ts && node scripts/bench-scheduler.js [--scheduler dist/core/scheduler.js]
//
// Queues 10,000 requests of 16 + 16 tokens and prints one JSON line per policy and queue length.
const path = require('node:path');
const { parseArgs } = require('node:util');

const NUM_REQUESTS = 10_000;
const NUM_TOKENS = 16;
const MAX_NUM_SEQS = 128;
const BLOCK_SIZE = 16;
const QUEUE_LENGTHS = [10_000, 5_000, 1_000, 100];
/** Steps measured at each length: a whole life of the running batch, so that admissions are spread alike. */
const WINDOW = 64;
const NUM_RUNS = 5;

function createScheduler(Scheduler, policy) {
  return new Scheduler({
    cache: { blockSize: BLOCK_SIZE, numBlocks: null, kvCacheDtype: 'auto', kvCacheBytes: null, enablePrefixCaching: true, hybridKvCacheManager: true },
    scheduler: { maxNumBatchedTokens: 2048, maxNumSeqs: MAX_NUM_SEQS, enableChunkedPrefill: true, policy },
    maxModelLen: 2048,
    numBlocks: 3 * MAX_NUM_SEQS + 1,
  });
}

function coreRequest(i) {
  const samplingParams = {
    n: 1, presencePenalty: 0, frequencyPenalty: 0, repetitionPenalty: 1, temperature: 0, topP: 1, topK: 0, minP: 0, seed: 0,
    stop: [], stopTokenIds: [], eosTokenIds: [2], maxTokens: NUM_TOKENS, minTokens: 0, logprobs: null, promptLogprobs: null,
    detokenize: true, skipSpecialTokens: true, spacesBetweenSpecialTokens: true, includeStopStrInOutput: false,
    outputKind: 'cumulative', logitBias: null, allowedTokenIds: null,
  };
  const promptTokenIds = Array.from({ length: NUM_TOKENS }, (_, k) => (i * 31 + k * 7) % 32_000);
  // Staggered ends, as in a real mix: otherwise all requests of a batch would end in the same step.
  samplingParams.maxTokens = NUM_TOKENS - (i % 8) + ((i + 4) % 8);
  return { requestId: `r${i}`, promptTokenIds, samplingParams, arrivalTime: i, priority: (i * 7919) % 4 };
}

function fakeOutput(step) {
  return {
    sampledTokenIds: step.scheduled.map((s, i) => 100 + ((s.numComputedTokens + i) % 1000)),
    logprobs: step.scheduled.map(() => null),
    promptLogprobs: new Map(),
    errors: new Map(),
  };
}

/** Runs until the queue is empty; microseconds of each step with the queue length before it. */
function run(Scheduler, policy) {
  const scheduler = createScheduler(Scheduler, policy);
  const addStart = process.hrtime.bigint();
  for (let i = 0; i < NUM_REQUESTS; i++) scheduler.addRequest(coreRequest(i));
  const addMicros = Number(process.hrtime.bigint() - addStart) / 1e3 / NUM_REQUESTS;
  const steps = [];
  while (scheduler.hasUnfinishedRequests()) {
    const numWaiting = scheduler.numWaiting;
    const start = process.hrtime.bigint();
    const step = scheduler.schedule();
    const planned = process.hrtime.bigint();
    const output = fakeOutput(step);
    const received = process.hrtime.bigint();
    scheduler.updateFromOutput(step, output);
    const end = process.hrtime.bigint();
    steps.push({ numWaiting, micros: Number(planned - start + end - received) / 1e3, numAdmitted: step.newRequests.length });
  }
  return { steps, addMicros };
}

/** The WINDOW steps from the first at which no more than `length` requests wait; without the very first, which only admits. */
function windowAt(steps, length) {
  const from = Math.max(1, steps.findIndex((s) => s.numWaiting <= length));
  return steps.slice(from, from + WINDOW);
}

/** Every run takes the same steps, so the shortest time of each step leaves out what else the machine did. */
function bestOf(runs) {
  return runs[0].map((step, i) => ({ ...step, micros: Math.min(...runs.map((steps) => steps[i].micros)) }));
}

const median = (values) => values.slice().sort((a, b) => a - b)[values.length >> 1];
const mean = (values) => values.reduce((sum, v) => sum + v, 0) / values.length;
const round = (value) => Math.round(value * 100) / 100;

function main() {
  const { values } = parseArgs({ options: { scheduler: { type: 'string', default: path.join(__dirname, '..', 'dist', 'core', 'scheduler.js') } } });
  const { Scheduler } = require(path.resolve(values.scheduler));
  for (const policy of ['fcfs', 'priority']) {
    const runs = Array.from({ length: NUM_RUNS }, () => run(Scheduler, policy));
    const steps = bestOf(runs.map((r) => r.steps));
    const addMicros = Math.min(...runs.map((r) => r.addMicros));
    for (const queueLength of QUEUE_LENGTHS) {
      const window = windowAt(steps, queueLength);
      const micros = window.map((s) => s.micros);
      console.log(JSON.stringify({
        policy, queueLength, numSteps: window.length, numRunning: MAX_NUM_SEQS, admittedPerStep: round(mean(window.map((s) => s.numAdmitted))),
        medianMicros: round(median(micros)), meanMicros: round(mean(micros)),
      }));
    }
    const totalMs = steps.reduce((sum, s) => sum + s.micros, 0) / 1e3;
    console.log(JSON.stringify({ policy, totalSteps: steps.length, totalMs: round(totalMs), addRequestMicros: round(addMicros) }));
  }
}

main();
