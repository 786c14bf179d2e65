'use strict';
// One rank of a Gloo group in a process of its own, on the bare addon. The parent carries the addresses and says what to do:
//
//   rank-program.js <addon> <rank> <size> <timeoutMs>
//
// It sends { address }, then { round } after each of the all-reduces that it runs until something fails, then { code, message, seconds }
// of the failure (seconds: since the collective was queued), and ends by itself. Message "abort": aborts its communicator.

const [addon, rank, size, timeoutMs] = [process.argv[2], ...process.argv.slice(3).map(Number)];
const kvasir = require(addon);
const ELEMENTS = 50_000;

const table = new Int32Array(16).fill(-1);
kvasir.setTable(table);
const stream = kvasir.createStream(0, 1);
table.set([kvasir.allocate(stream, ELEMENTS * 4), 0, 1, 0], 0);
new Float64Array(table.buffer)[2] = 0;
table[6] = ELEMENTS;
table[11] = 1;

const communicator = kvasir.createCommunicator(stream, 'gloo', rank, size, '', timeoutMs, -1);

async function run(addresses) {
  let started = Date.now();
  try {
    await kvasir.connectCommunicator(communicator, addresses.map((text) => new Uint8Array(Buffer.from(text)).buffer));
    for (let round = 0; ; round++) {
      started = Date.now();
      kvasir.fill(0, rank);
      kvasir.allReduce(communicator, 0);
      const sum = new Float32Array(await kvasir.read(0));
      if (sum[0] !== (size * (size - 1)) / 2 || sum[ELEMENTS - 1] !== sum[0]) throw new Error(`round ${round} summed to ${sum[0]}`);
      process.send({ round });
    }
  } catch (error) {
    process.send({ code: error.code, message: error.message, seconds: (Date.now() - started) / 1000 });
    kvasir.destroyCommunicator(communicator);
    kvasir.destroyStream(stream);
    process.disconnect();
  }
}

process.on('message', (message) => {
  if (message === 'abort') kvasir.abortCommunicator(communicator);
  else void run(message.addresses);
});
process.send({ address: Buffer.from(kvasir.communicatorAddress(communicator)).toString() });
