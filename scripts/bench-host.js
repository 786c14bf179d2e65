'use strict';
// What the host does for a decode step, apart from the device: planning, building inputs, queueing, taking results. Prints one JSON line
// with the median and 90th percentile of the microseconds per step in the JavaScript thread.
//   node scripts/bench-host.js <model directory | config.json> [--batch-size 128] [--steps 200] [--device auto] [--dtype auto] [--load-format dummy]

const { parseArgs } = require('node:util');
const { LLM } = require('..');
const { Scheduler } = require('../dist/core/scheduler.js');
const { ModelRunner } = require('../dist/worker/model-runner.js');

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    'batch-size': { type: 'string', default: '128' },
    steps: { type: 'string', default: '200' },
    device: { type: 'string', default: 'auto' },
    dtype: { type: 'string', default: 'auto' },
    'load-format': { type: 'string', default: 'auto' },
  },
});

/** Adds the time that calls of a method take until they return (not until a promise settles) to `spent`. */
function timed(prototype, name, spent) {
  const original = prototype[name];
  prototype[name] = function (...args) {
    const start = performance.now();
    try {
      return original.apply(this, args);
    } finally {
      spent.current += performance.now() - start;
    }
  };
}

async function main() {
  const [model] = positionals;
  if (!model) throw new Error('usage: node scripts/bench-host.js <model>');
  const spent = { current: 0 };
  const perStep = [];
  for (const name of ['schedule', 'updateFromOutput']) timed(Scheduler.prototype, name, spent);
  timed(ModelRunner.prototype, 'execute', spent);
  timed(ModelRunner.prototype, 'collect', spent);
  const { schedule } = Scheduler.prototype;
  Scheduler.prototype.schedule = function (...args) {
    perStep.push(spent.current);
    spent.current = 0;
    return schedule.apply(this, args);
  };
  const batchSize = Number(values['batch-size']);
  const steps = Number(values.steps);
  const llm = await LLM.create({
    model, loadFormat: values['load-format'], device: values.device, dtype: values.dtype, maxNumSeqs: Math.max(batchSize, 1), maxModelLen: steps + 64,
  });
  try {
    const prompts = Array.from({ length: batchSize }, (_, i) => ({ promptTokenIds: Array.from({ length: 16 }, (_, j) => (i * 31 + j) % llm.config.model.vocabSize) }));
    await llm.generate(prompts, { temperature: 0, maxTokens: steps, ignoreEos: true, detokenize: false });
    const times = perStep.slice(20, -5).sort((a, b) => a - b);
    const at = (p) => Math.round(times[Math.floor(p * times.length)] * 1000);
    process.stdout.write(`${JSON.stringify({ benchmark: 'host', model, batchSize, steps: times.length, microsecondsPerStep: { p50: at(0.5), p90: at(0.9) } })}\n`);
  } finally {
    await llm.close();
  }
}

main().catch((error) => {
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 1;
});
