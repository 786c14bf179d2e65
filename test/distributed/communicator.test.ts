import { spawnSync } from 'node:child_process';
import * as fs from 'node:fs';
import * as net from 'node:net';
import * as os from 'node:os';
import * as path from 'node:path';
import { Worker } from 'node:worker_threads';
import { loadAddon } from '../../lib/binding/load';
import { Communicator } from '../../lib/distributed/communicator';
import { commInfo } from '../../lib/ops/comm';
import { Device, liveStorages } from '../../lib/tensor/device';
import { Workspace } from '../../lib/tensor/workspace';
import { narrow } from '../../lib/tensor/views';
import { expectCode } from '../fixtures/expect-error';
import { describeGloo, describeKind, KINDS, TestGroup, type TestRank } from '../fixtures/communicators';
import { TEST_DEVICE } from '../ops/harness';

const addon = path.resolve(loadAddon().file);
const ones = (count: number): Float64Array => new Float64Array(count).fill(1);
const describeCpu: jest.Describe = TEST_DEVICE === 'cpu' ? describe : describe.skip;

/** Queues an all-reduce of `count` ones; the promise is that of the device. */
function reduce(rank: TestRank, count = 4): Promise<void> {
  rank.run((communicator) => communicator.allReduce(rank.tensor('float32', [count], ones(count))));
  return rank.device.synchronize();
}

/** Every promise rejects with ERR_KVASIR_RANK; what was rejected is listened to before anything is awaited. */
async function expectRankErrors(promises: readonly Promise<void>[]): Promise<string[]> {
  const errors = await Promise.all(promises.map((promise) => expectCode('ERR_KVASIR_RANK', () => promise)));
  return errors.map((error) => error.message);
}

describe.each(KINDS)('a %s group', (kind) => {
  describeKind(kind)('in planned forward passes', () => {
    it('makes the same ops for one row and for many', async () => {
      const group = await TestGroup.connected(kind, 2);
      const inputs = group.each((r) => r.tensor('float32', [5, 6], Float64Array.from({ length: 30 }, (_, i) => i + 100 * r.rank)));
      const workspaces = group.ranks.map(() => new Workspace());
      const forward = (rank: number, rows: number) => () => {
        const { communicator } = group.ranks[rank]!;
        const x = narrow(narrow(inputs[rank]!, 0, 0, rows), 1, 1, 2); // rows with gaps, but not when there is one
        return [communicator.allGather(x), communicator.reduceScatter(narrow(inputs[rank]!, 0, 0, 4))];
      };
      workspaces.forEach((w, rank) => w.plan(forward(rank, 5)));
      workspaces.forEach((w, rank) => w.materialize(group.ranks[rank]!.device));
      for (const rows of [1, 3, 5]) {
        const outs = workspaces.map((w, rank) => w.run(forward(rank, rows)));
        const expected = Array.from({ length: rows }, (_, t) => [6 * t + 1, 6 * t + 2, 6 * t + 101, 6 * t + 102]).flat();
        for (const [rank, [gathered, sum]] of outs.entries()) {
          expect(Array.from((await gathered!.read()) as Float32Array)).toEqual(expected);
          expect(((await sum!.read()) as Float32Array)[0]).toBe(2 * 12 * rank + 100);
        }
      }
      for (const w of workspaces) w.dispose();
      await group.close();
    });

    it('runs collectives that were queued before dispose()', async () => {
      const group = await TestGroup.connected(kind, 2);
      const tensors = group.each((r, communicator) => communicator.allReduce(r.tensor('float32', [100_000], ones(100_000))));
      for (const { communicator } of group.ranks) communicator.dispose();
      for (const x of tensors) expect(new Set((await x.read()) as Float32Array)).toEqual(new Set([2]));
      await expectCode('ERR_KVASIR_DISPOSED', () => reduce(group.ranks[0]!));
      await group.close();
    });
  });
});

describeCpu('on the CPU', () => {
  describe.each(KINDS)('a %s group', (kind) => {
    describeKind(kind)('that cannot go on', () => {
      it('abort() wakes who waits, on every rank, and nothing runs after it', async () => {
        const group = await TestGroup.connected(kind, 3, { timeoutMs: 60_000 });
        const waiting = group.ranks.slice(0, 2).map((rank) => reduce(rank));
        await new Promise((resolve) => setTimeout(resolve, 50));
        group.ranks[0]!.communicator.abort();
        group.ranks[0]!.communicator.abort();
        const [message] = await expectRankErrors(waiting);
        expect(message).toContain('aborted');
        // What was sent before may still complete one collective of another rank.
        await Promise.allSettled(group.ranks.map((rank) => reduce(rank)));
        await expectRankErrors(group.ranks.map((rank) => reduce(rank)));
        await group.close();
      });

      it('a rank that does not come is waited for until the timeout', async () => {
        const group = await TestGroup.connected(kind, 2, { timeoutMs: 200 });
        const started = Date.now();
        await expectRankErrors([reduce(group.ranks[0]!)]);
        expect(Date.now() - started).toBeGreaterThanOrEqual(190);
        await Promise.allSettled([reduce(group.ranks[1]!)]);
        await expectRankErrors(group.ranks.map((rank) => reduce(rank)));
        await group.close();
      });

      it('a rank that left after a collective does not disturb it on the others', async () => {
        const group = await TestGroup.connected(kind, 3, { timeoutMs: 60_000 });
        const [first, second, third] = group.ranks as [TestRank, TestRank, TestRank];
        const early = [reduce(first), reduce(second)];
        first.communicator.dispose(); // after what it has queued
        const late = reduce(third);
        await Promise.all([...early, late]);
        await expectRankErrors([reduce(second), reduce(third)]);
        await group.close();
      });

      it('a rank that left is not waited for', async () => {
        const group = await TestGroup.connected(kind, 2, { timeoutMs: 60_000 });
        const waiting = reduce(group.ranks[0]!);
        group.ranks[1]!.communicator.dispose();
        await expectRankErrors([waiting]);
        await group.close();
      });

      it('ranks that run different collectives fail instead of mixing them', async () => {
        const group = await TestGroup.connected(kind, 2, { timeoutMs: 60_000 });
        const messages = await expectRankErrors(group.ranks.map((rank) => reduce(rank, 4 + rank.rank)));
        expect(messages.join('\n')).toContain('the ranks run different collectives');
        await group.close();
      });

      it('the device works on after a failure', async () => {
        const group = await TestGroup.connected(kind, 2);
        const rank = group.ranks[0]!;
        rank.communicator.abort();
        await expectRankErrors([reduce(rank)]);
        const x = rank.tensor('float32', [2], Float64Array.of(3, 4));
        expect(Array.from((await x.read()) as Float32Array)).toEqual([3, 4]);
        await group.close();
      });
    });

    describeKind(kind)('that does not come together', () => {
      it('connect() fails after the timeout', async () => {
        const group = new TestGroup(kind, 3, { timeoutMs: 200 });
        const connecting = group.ranks.slice(0, 2).map((r) => r.communicator.connect(group.addresses()));
        for (const error of await Promise.all(connecting.map((promise) => expectCode('ERR_KVASIR_LAUNCH', () => promise)))) expect(error.message).toMatch(/within 200 ms|ended/);
        await expectCode('ERR_KVASIR_LAUNCH', () => reduce(group.ranks[0]!));
        await group.close();
      });

      it('abort() and dispose() end connect()', async () => {
        const group = new TestGroup(kind, 3, { timeoutMs: 60_000 });
        const aborted = group.ranks[0]!.communicator.connect(group.addresses());
        const disposed = group.ranks[1]!.communicator.connect(group.addresses());
        const both = Promise.all([aborted, disposed].map((promise) => expectCode('ERR_KVASIR_LAUNCH', () => promise)));
        group.ranks[0]!.communicator.abort();
        group.ranks[1]!.communicator.dispose();
        await both;
        await group.close();
      });

      it('collectives before connect(), connecting twice, or other numbers of addresses are refused', async () => {
        const group = new TestGroup(kind, 2);
        await expectCode('ERR_KVASIR_LAUNCH', () => reduce(group.ranks[0]!));
        await expectCode('ERR_KVASIR_LAUNCH', () => group.ranks[0]!.communicator.connect(group.addresses().slice(1)));
        await Promise.all(group.ranks.map((r) => r.communicator.connect(group.addresses())));
        await expectCode('ERR_KVASIR_LAUNCH', () => group.ranks[0]!.communicator.connect(group.addresses()));
        await group.close();
      });
    });

    describeKind(kind)('that is idle', () => {
      it('takes no CPU time', async () => {
        const group = await TestGroup.connected(kind, 2);
        await Promise.all(group.ranks.map((rank) => reduce(rank)));
        await new Promise((resolve) => setTimeout(resolve, 50));
        const before = process.cpuUsage();
        await new Promise((resolve) => setTimeout(resolve, 300));
        const used = process.cpuUsage(before);
        expect((used.user + used.system) / 1000).toBeLessThan(30);
        await group.close();
      });
    });
  });

  it('a communicator that cannot be is refused', async () => {
    const device = Device.create('cpu', 1);
    const create = (options: Partial<Parameters<typeof Communicator.create>[1]>) => () => Communicator.create(device, { kind: 'local', rank: 0, size: 2, ...options });
    await expectCode('ERR_KVASIR_LAUNCH', create({ rank: 2 }));
    await expectCode('ERR_KVASIR_LAUNCH', create({ rank: -1 }));
    await expectCode('ERR_KVASIR_LAUNCH', create({ rank: 1 })); // without rank 0's
    await expectCode('ERR_KVASIR_LAUNCH', create({ timeoutMs: 0 }));
    await expectCode('ERR_KVASIR_UNSUPPORTED', create({ kind: 'nccl' }));
    await device.close();
  });

  it('what waits for another rank does not keep a thread from ending', async () => {
    const worker = new Worker(WAITING_WORKER, { eval: true, workerData: { addon } });
    await new Promise<void>((resolve) => worker.once('message', () => resolve()));
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(await worker.terminate()).toBe(1);
  });

  it('without the plugin, Gloo is refused and where it was looked for is said', () => {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'kvasir-addon-'));
    try {
      fs.copyFileSync(addon, path.join(folder, 'kvasir.node'));
      const script = `const k = require(process.argv[1]); const info = k.commInfo().gloo;
        try { k.createCommunicator(k.createStream(0, 1), 'gloo', 0, 1, '', 1000, -1); } catch (e) { console.log(JSON.stringify({ info, code: e.code, message: e.message })); }`;
      const { stdout } = spawnSync(process.execPath, ['-e', script, path.join(folder, 'kvasir.node')], { encoding: 'utf8' });
      const { info, code, message } = JSON.parse(stdout) as { info: { found: boolean; report: string }; code: string; message: string };
      expect({ found: info.found, code }).toEqual({ found: false, code: 'ERR_KVASIR_UNSUPPORTED' });
      for (const text of [info.report, message]) expect(text).toContain(path.join(folder, 'kvasir-gloo.so'));
    } finally {
      fs.rmSync(folder, { recursive: true });
    }
  });
});

/** A thread with one rank of a local group of two: it waits in a collective for the other, which never comes. */
const WAITING_WORKER = `
const { parentPort, workerData } = require('node:worker_threads');
const kvasir = require(workerData.addon);
const table = new Int32Array(16).fill(-1);
kvasir.setTable(table);
const streams = [kvasir.createStream(0, 1), kvasir.createStream(0, 1)];
table.set([kvasir.allocate(streams[0], 4), 0, 0, 0], 0);
new Float64Array(table.buffer)[2] = 0;
const first = kvasir.createCommunicator(streams[0], 'local', 0, 2, '', 600000, -1);
const second = kvasir.createCommunicator(streams[1], 'local', 1, 2, '', 600000, first);
Promise.all([first, second].map((id) => kvasir.connectCommunicator(id, [new ArrayBuffer(0), new ArrayBuffer(0)]))).then(() => {
  kvasir.allReduce(first, 0);
  kvasir.synchronize(streams[0]);
  parentPort.postMessage('waiting');
});
`;

describeGloo('Gloo', () => {
  const create = (host: string): Promise<void> => {
    const device = Device.create('cpu', 1);
    try {
      Communicator.create(device, { kind: 'gloo', rank: 0, size: 2, host }).dispose();
    } catch (error) {
      return device.close().then(() => Promise.reject(error));
    }
    return device.close();
  };

  it('is found, and says where', () => {
    expect(commInfo().gloo).toEqual({ found: true, report: path.join(path.dirname(addon), 'kvasir-gloo.so') });
  });

  it('listens on an interface by name, address or host name, and on no other', async () => {
    for (const host of ['', 'lo', '127.0.0.1', 'localhost']) await create(host);
    for (const host of ['0.0.0.0', '::', 'no such interface', '192.0.2.1']) await expectCode('ERR_KVASIR_LAUNCH', () => create(host));
  });

  it('addresses that are none are refused', async () => {
    const group = new TestGroup('gloo', 2);
    const [own] = group.addresses();
    for (const bad of ['', 'x', '127.0.0.1 1', `127.0.0.1 1 ${'zz'.repeat(32)}`]) {
      const rank = new TestGroup('gloo', 2);
      await expectCode('ERR_KVASIR_LAUNCH', () => rank.ranks[0]!.communicator.connect([own!, Buffer.from(bad)]));
      await rank.close();
    }
    await group.close();
  });

  it('strangers neither take a place nor hold the ranks up', async () => {
    const group = new TestGroup('gloo', 2);
    const [host, port] = Buffer.from(group.addresses()[0]!).toString().split(' ');
    const strangers = await Promise.all(
      Array.from({ length: 5 }, () => new Promise<net.Socket>((resolve) => { const s = net.connect(Number(port), host, () => resolve(s)); })),
    );
    for (const stranger of strangers) stranger.on('error', () => undefined);
    strangers[0]!.write(Buffer.alloc(56, 1));
    strangers[1]!.write(Buffer.alloc(1000));
    strangers[2]!.write('GET / HTTP/1.1\r\n\r\n');
    strangers[3]!.destroy();
    await Promise.all(group.ranks.map((r) => r.communicator.connect(group.addresses())));
    await Promise.all(group.ranks.map((rank) => reduce(rank)));
    for (const stranger of strangers) stranger.destroy();
    await group.close();
  });

  it('who does not know the key of the rank it calls is not let in', async () => {
    const group = new TestGroup('gloo', 2, { timeoutMs: 500 });
    const other = new TestGroup('gloo', 2, { timeoutMs: 500 });
    const [host, port] = Buffer.from(group.addresses()[0]!).toString().split(' ');
    const [, , otherKey] = Buffer.from(other.addresses()[0]!).toString().split(' ');
    const guessed = Buffer.from(`${host} ${port} ${otherKey}`);
    const both = [group.ranks[0]!.communicator.connect(group.addresses()), other.ranks[1]!.communicator.connect([guessed, other.addresses()[1]!])];
    await Promise.all(both.map((promise) => expectCode('ERR_KVASIR_LAUNCH', () => promise)));
    await group.close();
    await other.close();
  });

  it('leaves no memory behind when ranks are made and never connected', async () => {
    const group = new TestGroup('gloo', 4);
    await group.close();
    expect(liveStorages().count).toBe(0);
  });
});
