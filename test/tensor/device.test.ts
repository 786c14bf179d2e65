import * as path from 'node:path';
import { Worker } from 'node:worker_threads';
import { loadAddon, loadBinding, wrapNativeError } from '../../lib/binding/load';
import { cast } from '../../lib/ops/copy';
import { Device, liveStorages } from '../../lib/tensor/device';
import { withTensors } from '../../lib/tensor/scope';
import { expectCode } from '../fixtures/expect-error';

const addon = path.resolve(loadAddon().file);

/** The device adds and copies as it should. */
async function expectWorking(device: Device): Promise<void> {
  await withTensors(device, async (within, temporary) => {
    const out = within(() => {
      const x = temporary.allocate([3], 'float32');
      x.write(Float32Array.of(1, 2, 3));
      return cast(x, 'float32');
    });
    expect(Array.from((await out.read()) as Float32Array)).toEqual([1, 2, 3]);
  });
}

describe('a C++ exception', () => {
  it('at the call becomes a KvasirError and the device works afterwards', async () => {
    const device = Device.create('cpu', 2);
    const error = wrapNativeError(await Promise.resolve().then(() => loadBinding().raise(device.stream, 0)).catch((e: unknown) => e));
    expect(error).toMatchObject({ name: 'KvasirError', code: 'ERR_KVASIR_NATIVE', message: 'raised at the call' });
    await expectWorking(device);
    await device.close();
  });

  it('in queued work rejects the next fence, once; work queued behind it does not run', async () => {
    const device = Device.create('cpu', 2);
    const x = device.empty([1], 'int32');
    loadBinding().raise(device.stream, 1);
    x.write(Int32Array.of(7));
    const error = await expectCode('ERR_KVASIR_NATIVE', () => device.synchronize());
    expect(error.message).toBe('raised in queued work');
    await device.synchronize();
    expect(Array.from((await x.read()) as Int32Array)).toEqual([0]);
    await expectWorking(device);
    loadBinding().raise(device.stream, 1);
    await expectCode('ERR_KVASIR_NATIVE', () => x.read());
    x.disposeStorage();
    await device.close();
    expect(liveStorages().count).toBe(0);
  });
});

describe('a device', () => {
  it('refuses a backend or a number of threads that this build does not have', async () => {
    await expectCode('ERR_KVASIR_UNSUPPORTED', () => Device.create('cuda', 1));
    await expectCode('ERR_KVASIR_NATIVE', () => Device.create('cpu', 0));
  });

  it('that is closed takes no more work; closing again does nothing', async () => {
    const device = Device.create('cpu', 1);
    await device.close();
    await device.close();
    await expectCode('ERR_KVASIR_DISPOSED', () => device.allocate(8));
    await expectCode('ERR_KVASIR_DISPOSED', () => device.synchronize());
  });

  it('takes no CPU time while it is idle', async () => {
    const device = Device.create('cpu', 4);
    await expectWorking(device);
    await device.synchronize();
    await new Promise((resolve) => setTimeout(resolve, 50)); // threads spin for a moment before they sleep
    const before = process.cpuUsage();
    await new Promise((resolve) => setTimeout(resolve, 300));
    const used = process.cpuUsage(before);
    expect((used.user + used.system) / 1000).toBeLessThan(30);
    await device.close();
  });

  it('counts calls and time per op while profiling', async () => {
    const device = Device.create('cpu', 1);
    device.setProfiling(true);
    await expectWorking(device);
    device.setProfiling(false);
    expect(device.profile().copy).toMatchObject({ calls: 1, seconds: expect.any(Number) });
    await device.close();
  });
});

/** Uses the addon in a thread of its own and posts 'working' with the first sum of the loop it then stays in. */
const WORKER = `
const { parentPort, workerData } = require('node:worker_threads');
const kvasir = require(workerData.addon);
const table = new Int32Array(16 * 16).fill(-1);
const offsets = new Float64Array(table.buffer);
kvasir.setTable(table);
const stream = kvasir.createStream(0, 2);
const SIZE = 1 << 16;
function tensor(row) {
  table.set([kvasir.allocate(stream, SIZE * 4), 0, 1, 0], row * 16);
  offsets[(row * 16 + 4) / 2] = 0;
  table[row * 16 + 6] = SIZE;
  table[row * 16 + 11] = 1;
}
tensor(0);
tensor(1);
(async () => {
  for (let i = 0; i < workerData.rounds; i++) {
    kvasir.fill(0, i);
    for (let k = 0; k < 50; k++) kvasir.copy(1, 0);
    const values = new Float32Array(await kvasir.read(1));
    if (values[0] !== i || values[SIZE - 1] !== i) throw new Error('round ' + i + ' read ' + values[0]);
    if (i === 0) parentPort.postMessage('working');
  }
  await kvasir.synchronize(stream);
  if (!workerData.leak) {
    for (const row of [0, 1]) kvasir.release(table[row * 16]);
    await kvasir.synchronize(stream);
    kvasir.destroyStream(stream);
  }
  parentPort.postMessage(kvasir.liveStorages().count);
})();
`;

interface Run {
  readonly worker: Worker;
  readonly messages: unknown[];
  readonly working: Promise<void>;
  readonly exit: Promise<number>;
}

function start(rounds: number, leak = false): Run {
  const worker = new Worker(WORKER, { eval: true, workerData: { addon, rounds, leak } });
  const messages: unknown[] = [];
  const exit = new Promise<number>((resolve, reject) => worker.once('exit', resolve).once('error', reject));
  const working = new Promise<void>((resolve) =>
    worker.on('message', (message) => {
      messages.push(message);
      resolve();
    }),
  );
  return { worker, messages, working, exit };
}

describe('the addon in worker threads', () => {
  it('works in two at once and in this one, and each ends cleanly', async () => {
    const runs = [start(20), start(20)];
    const device = Device.create('cpu', 1);
    await Promise.all(runs.map((r) => r.working));
    await expectWorking(device);
    expect(await Promise.all(runs.map((r) => r.exit))).toEqual([0, 0]);
    for (const { messages } of runs) expect(messages).toEqual(['working', 0]);
    await expectWorking(device);
    await device.close();
  });

  it('lets a thread end that closed nothing', async () => {
    const run = start(2, true);
    expect(await run.exit).toBe(0);
    expect(run.messages).toEqual(['working', 2]);
  });

  it('survives terminate() in the middle of work, again and again', async () => {
    for (let i = 0; i < 5; i++) {
      const run = start(1e9);
      await run.working;
      expect(await run.worker.terminate()).toBe(1);
    }
    const device = Device.create('cpu', 1);
    await expectWorking(device);
    await device.close();
  });
});
