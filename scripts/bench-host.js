'use strict';
// What the host does for a decode step, apart from the device: planning, building inputs, queueing, taking results. Prints one JSON line
// with, in microseconds of the JavaScript thread per step:
//   microsecondsPerStep  median and 90th percentile of the time inside the functions below, together
//   phases               the median of each, without the time of those it calls; on a device without graphs `forward` is the
//                        queueing of every op
//   busy                 all time in which the event loop was not waiting, as a mean: also promises, callbacks, garbage collection
//   wall                 the mean time of a step
// and what the CUDA graph of the batch is made of.
//   node scripts/bench-host.js <model directory | config.json> [--batch-size 128] [--steps 200] [--device auto] [--dtype auto] [--load-format dummy]

const { parseArgs } = require('node:util');
const { LLM } = require('..');
const { Scheduler } = require('../dist/core/scheduler.js');
const { OutputProcessor } = require('../dist/engine/output-processor.js');
const { Sampler } = require('../dist/sampling/sampler.js');
const { Device } = require('../dist/tensor/device.js');
const { Tensor } = require('../dist/tensor/tensor.js');
const { Workspace } = require('../dist/tensor/workspace.js');
const { CudaGraphRunner } = require('../dist/worker/cuda-graphs.js');
const { InputBatch } = require('../dist/worker/input-batch.js');
const { InputBuffers } = require('../dist/worker/input-buffers.js');
const { ModelRunner } = require('../dist/worker/model-runner.js');

/** Steps at the beginning (prompts, warming up, capture) and at the end that do not count. */
const SKIPPED = { first: 20, last: 5 };

/** What is timed: a name for the report, whose method, and its name. */
const PHASES = [
  ['schedule', Scheduler, 'schedule'],
  ['updateRequests', ModelRunner, 'updateRequests'],
  ['buildInputs', InputBatch, 'buildInputs'],
  ['upload', InputBuffers, 'upload'],
  ['forward', Workspace, 'run'],
  ['graphs', CudaGraphRunner, 'run'],
  ['graphLaunch', Device, 'launchGraph'],
  ['draw', Sampler, 'draw'],
  ['sample', Sampler, 'sample'],
  ['read', Tensor, 'read'],
  ['execute', ModelRunner, 'execute'],
  ['collect', ModelRunner, 'collect'],
  ['updateFromOutput', Scheduler, 'updateFromOutput'],
  ['outputs', OutputProcessor, 'process'],
];

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

/** Own times of the timed functions by phase, and one record for each step: a step begins with schedule(). */
class Recorder {
  constructor() {
    this.records = [];
    this.loop = [];
    this.spent = new Float64Array(PHASES.length);
    this.inner = 0;
    this.depth = 0;
  }

  wrap(phase, prototype, name) {
    const recorder = this;
    const original = prototype[name];
    if (typeof original !== 'function') throw new Error(`there is no ${name}() to time`);
    prototype[name] = function (...args) {
      if (phase === 0) recorder.nextStep();
      const outer = recorder.inner;
      recorder.inner = 0;
      const start = performance.now();
      try {
        return original.apply(this, args); // until it returns, not until its promise settles
      } finally {
        const time = performance.now() - start;
        recorder.spent[phase] += time - recorder.inner;
        recorder.inner = outer + time;
      }
    };
  }

  nextStep() {
    this.records.push(this.spent);
    this.spent = new Float64Array(PHASES.length);
    this.loop.push({ utilization: performance.eventLoopUtilization(), at: performance.now() });
  }

  report() {
    const records = this.records.slice(SKIPPED.first, -SKIPPED.last);
    const [begin, end] = [this.loop[SKIPPED.first], this.loop[this.loop.length - SKIPPED.last]];
    const micros = (times, p) => Math.round([...times].sort((a, b) => a - b)[Math.floor(p * times.length)] * 1e4) / 10;
    const totals = records.map((record) => record.reduce((sum, time) => sum + time, 0));
    const medians = PHASES.map(([name], i) => [name, micros(records.map((record) => record[i]), 0.5)]);
    const perStep = (milliseconds) => Math.round((milliseconds * 1e3) / records.length);
    return {
      steps: records.length,
      microsecondsPerStep: { p50: Math.round(micros(totals, 0.5)), p90: Math.round(micros(totals, 0.9)) },
      phases: Object.fromEntries(medians.filter(([, time]) => time > 0)),
      busy: perStep(performance.eventLoopUtilization(end.utilization, begin.utilization).active),
      wall: perStep(end.at - begin.at),
    };
  }
}

/** Remembers the graphs that are captured and says what the last one is made of. */
function watchGraphs() {
  let last = null;
  const { endCapture } = Device.prototype;
  Device.prototype.endCapture = function () {
    const graph = endCapture.call(this);
    last = this.graphInfo(graph);
    return graph;
  };
  return () => (last === null ? {} : { graph: last });
}

async function main() {
  const [model] = positionals;
  if (!model) throw new Error('usage: node scripts/bench-host.js <model>');
  const recorder = new Recorder();
  PHASES.forEach(([, owner, name], phase) => recorder.wrap(phase, owner.prototype, name));
  const graph = watchGraphs();
  const batchSize = Number(values['batch-size']);
  const steps = Number(values.steps);
  const llm = await LLM.create({
    model, loadFormat: values['load-format'], device: values.device, dtype: values.dtype, maxNumSeqs: Math.max(batchSize, 1), maxModelLen: steps + 64,
  });
  try {
    const prompts = Array.from({ length: batchSize }, (_, i) => ({ promptTokenIds: Array.from({ length: 16 }, (_, j) => (i * 31 + j) % llm.config.model.vocabSize) }));
    await llm.generate(prompts, { temperature: 0, maxTokens: steps, ignoreEos: true, detokenize: false });
    process.stdout.write(`${JSON.stringify({ benchmark: 'host', model, device: llm.config.device.device, batchSize, ...recorder.report(), ...graph() })}\n`);
  } finally {
    await llm.close();
  }
}

main().catch((error) => {
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 1;
});
