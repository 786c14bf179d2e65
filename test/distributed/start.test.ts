import { once } from 'node:events';
import * as net from 'node:net';
import type { FollowerOptions, JoinOptions } from '../../lib/distributed/control-plane';
import { joinAsFollower } from '../../lib/distributed/follower';
import { frameOf, FrameType } from '../../lib/distributed/frames';
import { decodeHello, encodeHello } from '../../lib/distributed/handshake';
import { bindLeader } from '../../lib/distributed/leader';
import { FINGERPRINT, options, timed } from './fixtures/ranks';

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
const launchError = (message: RegExp): object => ({ code: 'ERR_KVASIR_LAUNCH', message: expect.stringMatching(message) });

/** What became of a start: every rank's error, or null. Whatever came together is closed. */
async function start(leader: Partial<JoinOptions>, followers: readonly Partial<FollowerOptions>[]): Promise<unknown[]> {
  const size = leader.size ?? followers.length + 1;
  const server = await bindLeader(options(0, size, 0, leader));
  const ranks = [server.accept(), ...followers.map((more, i) => joinAsFollower(options(i + 1, size, server.port, more)))];
  const results = await Promise.allSettled(ranks);
  await Promise.all(results.map((result) => (result.status === 'fulfilled' ? result.value.close() : null)));
  await server.close();
  return results.map((result) => (result.status === 'rejected' ? (result.reason as unknown) : null));
}

/** A raw connection to a port, and the bytes that it was answered with when it was ended. */
async function knock(port: number, send: Buffer): Promise<Buffer> {
  const socket = net.connect(port, '127.0.0.1');
  await once(socket, 'connect');
  socket.write(send);
  const chunks: Buffer[] = [];
  socket.on('data', (chunk: Buffer) => chunks.push(chunk));
  await new Promise<void>((resolve) => socket.on('error', () => undefined).on('close', () => resolve()));
  return Buffer.concat(chunks);
}

describe('ranks that do not fit', () => {
  test.each<[string, Partial<FollowerOptions>, RegExp]>([
    ['another model', { fingerprint: { ...FINGERPRINT, model: 'other' } }, /^rank 1 has model "other", and rank 0 "m"$/],
    ['a part that rank 0 lacks', { fingerprint: { ...FINGERPRINT, dtype: 'f16' } }, /^rank 1 has dtype "f16", and rank 0 undefined$/],
    ['a part missing', { fingerprint: { version: '1' } }, /^rank 1 has model undefined, and rank 0 "m"$/],
    ['another size', { size: 3 }, /^rank 1 was told of a group of 3, and rank 0 of 2$/],
  ])('%s is said to both sides', async (_, follower, message) => {
    expect(await start({ size: 2 }, [follower])).toEqual([expect.objectContaining(launchError(message)), expect.objectContaining(launchError(message))]);
  });

  test('a rank that is there twice ends the start for all', async () => {
    const errors = await start({ size: 4 }, [{ rank: 1 }, { rank: 1 }]);
    expect(errors).toEqual(Array.from({ length: 3 }, () => expect.objectContaining(launchError(/rank 1 is there already/))));
  });

  test('another version of the protocol is named', async () => {
    const server = await bindLeader(options(0, 2, 0));
    const hello = encodeHello({ rank: 1, size: 2, fingerprint: FINGERPRINT }, 'a secret');
    hello.writeUInt32LE(7, 8);
    const accepted = expect(server.accept()).rejects.toMatchObject(launchError(/version 7 of the protocol, and rank 0 version 1/));
    const answer = await knock(server.port, frameOf(FrameType.hello, hello));
    expect(answer[4]).toBe(FrameType.refused);
    expect(answer.subarray(5).toString()).toMatch(/version 7/);
    await accepted;
    await server.close();
  });

  test('another secret gets no answer, and disturbs nobody', async () => {
    const server = await bindLeader(options(0, 2, 0));
    const accepted = server.accept();
    const refused = joinAsFollower(options(1, 2, server.port, { secret: 'a secreT', timeoutMs: 5000 }));
    await expect(refused).rejects.toMatchObject(launchError(/^rank 1: .* closed the connection without an answer; .*secret/));
    const follower = await joinAsFollower(options(1, 2, server.port));
    await (await accepted).close();
    await follower.close();
  });

  test.each<[string, Partial<JoinOptions>]>([
    ['an address that others reach without a secret', { host: '192.0.2.1', secret: '' }],
    ['all interfaces', { host: '0.0.0.0' }],
    ['all interfaces of IPv6', { host: '::' }],
    ['an address of another machine', { host: '192.0.2.1' }],
    ['a name that does not exist', { host: 'no-such-host.invalid' }],
    ['rank 1 as rank 0', { rank: 1 }],
  ])('rank 0 refuses %s', async (_, more) => {
    await expect(bindLeader(options(0, 2, 0, more))).rejects.toMatchObject({ code: 'ERR_KVASIR_LAUNCH' });
  });

  test.each<[string, Partial<FollowerOptions>]>([
    ['an address that others reach without a secret', { host: '192.0.2.1', secret: '' }],
    ['all interfaces', { host: '0.0.0.0' }],
    ['rank 0', { rank: 0 }],
    ['a rank outside of the group', { rank: 2 }],
    ['a secret that is too long', { secret: 'x'.repeat(5000) }],
    ['a fingerprint that is too long', { fingerprint: { a: 'x'.repeat(70000) } }],
  ])('another rank refuses %s, at once', async (_, more) => {
    const { value, ms } = await timed(joinAsFollower(options(1, 2, 1, more)).catch((error: unknown) => error));
    expect(value).toMatchObject({ code: 'ERR_KVASIR_LAUNCH' });
    expect(ms).toBeLessThan(2000);
  });

  test('a port that is taken is said', async () => {
    const server = await bindLeader(options(0, 2, 0));
    await expect(bindLeader(options(0, 2, server.port))).rejects.toMatchObject(launchError(/^rank 0 cannot listen at 127\.0\.0\.1:\d+: .*EADDRINUSE/));
    await server.close();
  });
});

describe('ranks that are late', () => {
  test('may come before rank 0 listens', async () => {
    const probe = net.createServer().listen(0, '127.0.0.1');
    await once(probe, 'listening');
    const { port } = probe.address() as net.AddressInfo;
    probe.close();
    const joining = joinAsFollower(options(1, 2, port, { host: 'localhost' }));
    await sleep(700);
    const server = await bindLeader(options(0, 2, port));
    const ranks = await Promise.all([server.accept(), joining]);
    await Promise.all(ranks.map((rank) => rank.close()));
    expect(ranks.map((rank) => rank.rank)).toEqual([0, 1]);
  });

  test('and do not come: every rank says who is missing, or what it waited for', async () => {
    const errors = await start({ size: 4, timeoutMs: 600 }, [{}, { timeoutMs: 300 }]);
    const [leader, first, second] = errors;
    const impatient = /rank 2: expected the group of rank 0 at 127\.0\.0\.1:\d+ to be complete within 300 ms; rank 0 waits for other ranks$/;
    for (const error of [leader, first, second]) expect(error).toMatchObject(launchError(impatient));
    expect((await start({ size: 4, timeoutMs: 600 }, [{}, {}]))[1]).toMatchObject(launchError(/^rank 0: expected 4 ranks within 600 ms, rank 3 did not come/));
  });

  test('the leader counts what it refused', async () => {
    const server = await bindLeader(options(0, 3, 0, { timeoutMs: 400 }));
    const accepted = expect(server.accept()).rejects.toMatchObject(launchError(/expected 3 ranks within 400 ms, rank 1, 2 did not come .*; 1 connections showed another secret/));
    await knock(server.port, frameOf(FrameType.hello, encodeHello({ rank: 1, size: 3, fingerprint: {} }, 'wrong')));
    await accepted;
  });

  test('a start can be aborted', async () => {
    const server = await bindLeader(options(0, 2, 0, { signal: AbortSignal.timeout(200) }));
    await expect(server.accept()).rejects.toMatchObject(launchError(/aborted/));
    await expect(joinAsFollower(options(1, 2, server.port, { signal: AbortSignal.abort() }))).rejects.toMatchObject(launchError(/aborted/));
    await expect(joinAsFollower(options(1, 2, server.port, { signal: AbortSignal.timeout(200) }))).rejects.toMatchObject(launchError(/aborted/));
  });

  test('a start that was given up rejects', async () => {
    const server = await bindLeader(options(0, 2, 0));
    const accepted = expect(server.accept()).rejects.toMatchObject({ code: 'ERR_KVASIR_LAUNCH' });
    const joined = expect(joinAsFollower(options(1, 3, server.port, { timeoutMs: 2000 }))).rejects.toMatchObject({ code: 'ERR_KVASIR_LAUNCH' });
    await server.close();
    await accepted;
    await joined;
  });
});

describe('strangers', () => {
  const hello = encodeHello({ rank: 1, size: 2, fingerprint: FINGERPRINT }, 'a secret');

  test.each<[string, Buffer]>([
    ['HTTP', Buffer.from('GET / HTTP/1.1\r\nHost: x\r\n\r\n')],
    ['TLS', Buffer.from('16030100f8010000f40303', 'hex')],
    ['zeros', Buffer.alloc(200000)],
    ['a hello that is too long', frameOf(FrameType.hello, Buffer.alloc((64 << 10) + 1))],
    ['another frame first', frameOf(FrameType.fail, Buffer.from('{}'))],
    ['a secret longer than the hello', frameOf(FrameType.hello, Buffer.concat([hello.subarray(0, 12), Buffer.from('ffffffff', 'hex')]))],
    ['an empty hello', frameOf(FrameType.hello, Buffer.alloc(0))],
  ])('%s gets no answer, and the start goes on', async (_, bytes) => {
    const server = await bindLeader(options(0, 2, 0));
    const accepted = server.accept();
    expect(await knock(server.port, bytes)).toHaveLength(0);
    const follower = await joinAsFollower(options(1, 2, server.port));
    await (await accepted).close();
    await follower.close();
  });

  test('the secret does not help with a damaged hello, which is refused', async () => {
    const end = hello.indexOf('{');
    for (const json of ['', '[]', '{"rank":1}', '{"rank":1.5,"size":2,"fingerprint":{}}', '{"rank":1,"size":2,"fingerprint":{"a":1}}', '{"rank":-1,"size":2,"fingerprint":{}}']) {
      expect(decodeHello(Buffer.concat([hello.subarray(0, end), Buffer.from(json)]), 'a secret')).toBe('sent a damaged hello');
    }
    expect(decodeHello(hello, 'a secret')).toEqual({ rank: 1, size: 2, fingerprint: FINGERPRINT });
    for (let length = 0; length < end; length++) expect(decodeHello(hello.subarray(0, length), 'a secret')).toBe(null);
  });

  test('that stay silent are ended, and many of them do not keep ranks out', async () => {
    const server = await bindLeader(options(0, 2, 0));
    const accepted = server.accept();
    const sockets = Array.from({ length: 200 }, () => net.connect(server.port, '127.0.0.1').on('error', () => undefined));
    const closed = Promise.all(sockets.map((socket) => once(socket, 'close')));
    await Promise.all(sockets.map((socket) => once(socket, 'connect')));
    const follower = await joinAsFollower(options(1, 2, server.port));
    await (await accepted).close();
    await follower.close();
    await closed; // with the start their time was over
  });

  test('alone do not keep a connection longer than 5 s', async () => {
    const server = await bindLeader(options(0, 2, 0));
    const { value, ms } = await timed(knock(server.port, Buffer.of(1)));
    expect(value).toHaveLength(0);
    expect(ms).toBeGreaterThan(3000);
    expect(ms).toBeLessThan(8000);
    await server.close();
  });

  test('that answer in place of rank 0 are not believed', async () => {
    for (const answer of ['HTTP/1.1 400 Bad Request\r\n\r\n', frameOf(FrameType.start, Buffer.alloc(0)), frameOf(FrameType.welcome, Buffer.from('{}'))]) {
      const fake = net.createServer((socket) => socket.on('error', () => undefined).once('data', () => socket.write(answer))).listen(0, '127.0.0.1');
      await once(fake, 'listening');
      const joined = joinAsFollower(options(1, 2, (fake.address() as net.AddressInfo).port, { timeoutMs: 5000 }));
      await expect(joined).rejects.toMatchObject({ code: 'ERR_KVASIR_LAUNCH' });
      fake.close();
    }
  });
});
