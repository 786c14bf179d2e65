'use strict';
// What an op call costs in JavaScript and Node-API: tiny tensors, so that the kernels cost next to nothing.
//
//   npm run build && node scripts/bench-op-call.js [--calls 200000]
//
// Prints one JSON line with nanoseconds per call, the best of several runs: the bare native function; call() of ops/run.ts
// with the checks; the same inside a planned workspace with a new output per op, as a forward pass does it; a view.
const path = require('node:path');
const { parseArgs } = require('node:util');

const BATCH = 1000;
const NUM_RUNS = 5;

function load(name) {
  return require(path.resolve(__dirname, '..', 'dist', name));
}

/** Nanoseconds per call of the best run; the queue is drained between batches, outside of the time. */
async function best(device, calls, body) {
  let fastest = Infinity;
  for (let run = 0; run < NUM_RUNS; run++) {
    let total = 0n;
    for (let done = 0; done < calls; done += BATCH) {
      const start = process.hrtime.bigint();
      body();
      total += process.hrtime.bigint() - start;
      await device.synchronize();
    }
    fastest = Math.min(fastest, Number(total) / (Math.ceil(calls / BATCH) * BATCH));
  }
  return Math.round(fastest);
}

async function main() {
  const { values } = parseArgs({ options: { calls: { type: 'string', default: '200000' } } });
  const calls = Number(values.calls);
  if (!Number.isSafeInteger(calls) || calls < BATCH) throw new Error(`--calls must be an integer of at least ${BATCH}, received ${values.calls}`);
  const { loadBinding } = load('binding/load.js');
  const { Device, liveStorages } = load('tensor/device.js');
  const { inScope, TemporaryScope } = load('tensor/scope.js');
  const { Workspace } = load('tensor/workspace.js');
  const { narrow } = load('tensor/views.js');
  const { rmsNorm } = load('ops/norm.js');
  const { call } = load('ops/run.js');

  const device = Device.create('cpu', 1);
  const binding = loadBinding();
  const [x, out, residual] = [1, 2, 3].map(() => device.empty([1, 8], 'float32'));
  const weight = device.empty([8], 'float32');
  const scope = new TemporaryScope(device);
  const repeat = (body) => () => {
    for (let i = 0; i < BATCH; i++) body();
  };

  const forward = () => {
    let y = x;
    for (let i = 0; i < BATCH; i++) y = rmsNorm(y, weight, 1e-5);
    return [y];
  };
  const workspace = new Workspace();
  workspace.plan(forward);
  workspace.materialize(device);
  const views = new Workspace();
  const makeViews = () => {
    for (let i = 0; i < BATCH; i++) narrow(x, 1, 0, 4);
    return [];
  };
  views.plan(makeViews);
  views.materialize(device);

  const result = {
    calls,
    rawNs: await best(device, calls, repeat(() => binding.rmsNorm(out.row, x.row, weight.row, 1e-5, false))),
    callNs: await best(device, calls, () => inScope(scope, repeat(() => call('rmsNorm', out, x, weight, 1e-5, false)))),
    callInPlaceNs: await best(device, calls, () => inScope(scope, repeat(() => call('addRmsNorm', out, x, residual, weight, 1e-5, false)))),
    workspaceOpNs: await best(device, calls, () => workspace.run(forward)),
    workspaceViewNs: await best(device, calls, () => views.run(makeViews)),
    node: process.version,
  };
  workspace.dispose();
  views.dispose();
  scope.dispose();
  for (const tensor of [x, out, residual, weight]) tensor.disposeStorage();
  await device.close();
  if (liveStorages().count !== 0) throw new Error('the benchmark left memory behind');
  console.log(JSON.stringify(result));
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
