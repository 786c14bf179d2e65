'use strict';
// Time of an all-reduce among ranks on this machine, by kind of communicator and size of the tensor.
//
//   npm run build && node scripts/bench-all-reduce.js [--kinds local,gloo] [--ranks 2] [--bytes 8192,65536] [--dtype bfloat16] [--threads 1]
//   node scripts/bench-all-reduce.js --device cuda [--kinds local,nccl]
//
// The ranks of kind "local" share this process (on CUDA also one device); those of "gloo" and "nccl" have a process each, NCCL's a device
// each. Prints one JSON line per kind and size: { device, kind, ranks, dtype, bytes, medianMicroseconds, gigabytesPerSecond }: the median
// over batches of the time of one all-reduce among many that are queued together, and the bytes of the tensor by that time.
const { fork } = require('node:child_process');
const path = require('node:path');
const { parseArgs } = require('node:util');

const BATCHES = 15;
/** All-reduces of a batch: as many as move this many bytes, within limits. */
const BATCH_BYTES = 32 << 20;
const BATCH_LIMITS = [4, 200];
const SIZES = '8192,65536,262144,1048576,4194304,16777216';

function load(name) {
  return require(path.resolve(__dirname, '..', 'dist', name));
}

const median = (values) => values.sort((a, b) => a - b)[values.length >> 1];

/** All all-reduces of one rank; resolves with microseconds per all-reduce, by size. */
async function measure(rank, { bytes, dtype, synchronize }) {
  const { inScope, TemporaryScope } = load('tensor/scope.js');
  const { DTYPE_BYTES } = load('tensor/dtype.js');
  const results = [];
  for (const size of bytes) {
    const scope = new TemporaryScope(rank.device);
    const x = scope.allocate([size / DTYPE_BYTES[dtype]], dtype);
    const repeats = Math.min(BATCH_LIMITS[1], Math.max(BATCH_LIMITS[0], Math.floor(BATCH_BYTES / size)));
    const times = [];
    for (let batch = -1; batch < BATCHES; batch++) {
      await synchronize();
      const start = process.hrtime.bigint();
      inScope(scope, () => {
        for (let i = 0; i < repeats; i++) rank.communicator.allReduce(x);
      });
      await rank.device.synchronize();
      if (batch >= 0) times.push(Number(process.hrtime.bigint() - start) / 1000 / repeats);
    }
    results.push(median(times));
    scope.dispose();
  }
  return results;
}

function makeRank(options, kind, rank, first) {
  const { Device } = load('tensor/device.js');
  const { Communicator } = load('distributed/communicator.js');
  const device = Device.create(options.device, options.threads, kind === 'nccl' ? rank : 0);
  return { device, communicator: Communicator.create(device, { kind, rank, size: options.ranks, first: first?.communicator }) };
}

async function dispose(rank) {
  rank.communicator.dispose();
  await rank.device.close();
}

/** The ranks in this process; resolves with the times of each. */
async function measureTogether(options) {
  const ranks = [];
  for (let r = 0; r < options.ranks; r++) ranks.push(makeRank(options, 'local', r, ranks[0]));
  const addresses = ranks.map((rank) => rank.communicator.address());
  await Promise.all(ranks.map((rank) => rank.communicator.connect(addresses)));
  const times = await Promise.all(ranks.map((rank) => measure(rank, { ...options, synchronize: async () => undefined })));
  await Promise.all(ranks.map(dispose));
  return times;
}

/** The ranks as processes of this script; resolves with the times of each. */
async function measureApart(options, kind) {
  const children = Array.from({ length: options.ranks }, (_, rank) => fork(__filename, ['--child', JSON.stringify({ options, kind, rank })]));
  const each = (key) => Promise.all(children.map((child) => reply(child, key)));
  const addresses = await each('address');
  const times = each('times');
  for (const child of children) child.send({ addresses });
  return times;
}

/** What a child sends under a name; rejects when it ends before. */
function reply(child, key) {
  return new Promise((resolve, reject) => {
    child.on('message', (message) => key in message && resolve(message[key]));
    child.once('exit', (code, signal) => reject(new Error(`a rank ended with ${signal ?? code} before it sent its ${key}`)));
  });
}

async function runChild({ options, kind, rank }) {
  const self = makeRank(options, kind, rank);
  const told = new Promise((resolve) => process.once('message', resolve));
  process.send({ address: Buffer.from(self.communicator.address()).toString('base64') });
  const { addresses } = await told;
  await self.communicator.connect(addresses.map((text) => Buffer.from(text, 'base64')));
  const times = await measure(self, { ...options, synchronize: () => self.device.synchronize() });
  await new Promise((resolve) => process.send({ times }, resolve));
  await dispose(self);
  process.disconnect();
}

function numbers(text, name) {
  const list = text.split(',').map(Number);
  if (!list.every((n) => Number.isSafeInteger(n) && n > 0)) throw new Error(`--${name} must be positive integers, received ${text}`);
  return list;
}

function parse() {
  const { values } = parseArgs({
    options: {
      device: { type: 'string', default: 'cpu' },
      kinds: { type: 'string' },
      ranks: { type: 'string', default: '2' },
      bytes: { type: 'string', default: SIZES },
      dtype: { type: 'string', default: 'bfloat16' },
      threads: { type: 'string', default: '1' },
      child: { type: 'string' },
    },
  });
  if (values.child !== undefined) return { child: JSON.parse(values.child) };
  if (!['cpu', 'cuda'].includes(values.device)) throw new Error(`--device must be cpu or cuda, received ${values.device}`);
  const kinds = (values.kinds ?? (values.device === 'cpu' ? 'local,gloo' : 'local,nccl')).split(',');
  const [ranks] = numbers(values.ranks, 'ranks');
  const [threads] = numbers(values.threads, 'threads');
  return { kinds, options: { device: values.device, ranks, threads, dtype: values.dtype, bytes: numbers(values.bytes, 'bytes') } };
}

async function main() {
  const { child, kinds, options } = parse();
  if (child) return runChild(child);
  for (const kind of kinds) {
    const times = kind === 'local' ? await measureTogether(options) : await measureApart(options, kind);
    options.bytes.forEach((bytes, i) => {
      const microseconds = Math.max(...times.map((ofRank) => ofRank[i]));
      const line = { device: options.device, kind, ranks: options.ranks, dtype: options.dtype, bytes };
      console.log(JSON.stringify({ ...line, medianMicroseconds: Number(microseconds.toFixed(1)), gigabytesPerSecond: Number((bytes / microseconds / 1000).toFixed(3)) }));
    });
  }
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
