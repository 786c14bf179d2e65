'use strict';
// The executor of the package, with a device that fails in the middle of its work. Loaded in the engine's thread.
const path = require('node:path');

const dist = path.resolve(__dirname, '../../../dist');
const { loadBinding } = require(path.join(dist, 'binding/load.js'));
const { KvasirError } = require(path.join(dist, 'utils/errors.js'));
const { Device } = require(path.join(dist, 'tensor/device.js'));
const { ModelRunner } = require(path.join(dist, 'worker/model-runner.js'));

/** Steps before it are as always: with graphs, sizes of batches have been captured and launched by then. */
const FAULT_AT = 12;

/** Of a cache of two blocks: no memory lies where this one would. */
const NO_BLOCK = 2 ** 29;

/** Attention over a block that does not exist: the kernel reads from an illegal address. */
function readNowhere(device) {
  const [heads, headDim] = [8, 64];
  const tensors = {
    out: device.empty([1, heads, headDim], 'float32'), q: device.empty([1, heads, headDim], 'float32'), kvCache: device.empty([2, 2, heads, 16, headDim], 'float32'),
    blockTable: device.empty([1, 1], 'int32'), seqRows: device.empty([1], 'int32'), seqLens: device.empty([1], 'int32'), queryStartLoc: device.empty([2], 'int32'),
  };
  tensors.blockTable.write(Int32Array.of(NO_BLOCK));
  tensors.seqLens.write(Int32Array.of(1));
  tensors.queryStartLoc.write(Int32Array.of(0, 1));
  loadBinding().pagedAttention(...Object.values(tensors).map((tensor) => tensor.row), 1, 0, 0, -1, -1, 1, 1);
  for (const tensor of Object.values(tensors)) tensor.disposeStorage(); // after the work queued so far
}

/** A GPU faults by itself. The CPU stands in for one: from now on every call fails, as after a fault of a CUDA context. */
function breakDevice(device) {
  if (device.type === 'cuda') return readNowhere(device);
  const fault = () => new KvasirError('ERR_KVASIR_DEVICE', 'CUDA error cudaErrorIllegalAddress: pretended');
  Device.prototype.synchronize = () => Promise.reject(fault());
  Device.create = () => { throw fault(); };
  throw fault();
}

const { execute } = ModelRunner.prototype;
let steps = 0;
ModelRunner.prototype.execute = async function (step) {
  if (++steps === FAULT_AT) breakDevice(this.device);
  return execute.call(this, step);
};

exports.createExecutor = require(path.join(dist, 'worker/executor.js')).createExecutor;
