/**
 * The thread that keeps a rank's heartbeats: a TCP connection between rank 0 and each other rank, over which both send a byte at
 * intervals. A thread of its own, because a busy main thread (it compiles, it loads weights) must not be taken for a dead one.
 */
import * as net from 'node:net';
import { parentPort, workerData, type MessagePort } from 'node:worker_threads';
import { secretsEqual } from './handshake';
import type { FromHeartbeat, HeartbeatInit, ToHeartbeat } from './heartbeat-messages';
import { PulseMonitor } from './pulse';

const BEAT = 1;
const BYE = 0;
const BEAT_BYTES = Uint8Array.of(BEAT);
const BYE_BYTES = Uint8Array.of(BYE);
/** Time that a stranger gets to show the token, and how many may be doing so. */
const HELLO_TIMEOUT_MS = 3000;
const MAX_STRANGERS = 64;
const CLOSE_GRACE_MS = 300;

class HeartbeatThread {
  private readonly sockets = new Map<number, net.Socket>();
  private readonly strangers = new Set<net.Socket>();
  private readonly pulse: PulseMonitor;
  private readonly timer: NodeJS.Timeout;
  private server: net.Server | null = null;
  private killTimer: NodeJS.Timeout | undefined;
  private numTicks = 0;
  private closing = false;

  constructor(
    private readonly init: HeartbeatInit,
    private readonly port: MessagePort,
  ) {
    this.pulse = new PulseMonitor(init.silenceMs, performance.now());
    this.timer = setInterval(() => this.tick(), init.intervalMs / 2);
    port.on('message', (message: ToHeartbeat) => this.obey(message));
    if (init.rank === 0) this.listen();
    else this.connect();
  }

  private obey(message: ToHeartbeat): void {
    clearTimeout(this.killTimer);
    if (message.type === 'acknowledge') return;
    this.close();
    if (message.type === 'guard') this.killAfter(message.ms);
    else this.port.close(); // the last handle: the thread ends
  }

  private killAfter(ms: number): void {
    this.killTimer = setTimeout(() => process.kill(process.pid, 'SIGKILL'), ms);
  }

  private post(message: FromHeartbeat): void {
    this.port.postMessage(message);
  }

  private listen(): void {
    const server = (this.server = net.createServer((socket) => this.meet(socket)));
    server.on('error', (error) => this.post({ type: 'broken', reason: error.message }));
    server.listen({ host: this.init.address, port: this.init.port }, () => this.post({ type: 'listening', port: (server.address() as net.AddressInfo).port }));
  }

  /** A stranger has to show the token and its rank first. */
  private meet(socket: net.Socket): void {
    const [oldest] = this.strangers;
    if (this.strangers.size >= MAX_STRANGERS) oldest?.destroy();
    this.strangers.add(socket);
    const timer = setTimeout(() => socket.destroy(), HELLO_TIMEOUT_MS);
    const { token, size } = this.init;
    let received = Buffer.alloc(0);
    const read = (chunk: Buffer): void => {
      received = Buffer.concat([received, chunk]);
      if (received.length < token.length + 4) return;
      const rank = received.readUInt32LE(token.length);
      if (!secretsEqual(received.subarray(0, token.length), token) || rank === 0 || rank >= size || this.sockets.has(rank)) return void socket.destroy();
      clearTimeout(timer);
      this.strangers.delete(socket);
      socket.off('data', read);
      this.adopt(rank, socket);
      this.receive(rank, received.subarray(token.length + 4));
      if (this.sockets.size === size - 1) this.server?.close();
    };
    socket.on('data', read);
    socket.on('error', () => socket.destroy());
    socket.on('close', () => {
      clearTimeout(timer);
      this.strangers.delete(socket);
    });
  }

  private connect(): void {
    const { address, port, token, rank } = this.init;
    const socket = net.connect({ host: address, port });
    const hello = Buffer.alloc(token.length + 4);
    hello.set(token);
    hello.writeUInt32LE(rank, token.length);
    socket.once('connect', () => socket.write(hello));
    this.adopt(0, socket);
  }

  private adopt(rank: number, socket: net.Socket): void {
    socket.setNoDelay(true);
    this.sockets.set(rank, socket);
    if (this.init.rank === 0) {
      socket.write(BEAT_BYTES);
      this.joined(rank);
    }
    socket.on('data', (chunk: Buffer) => this.receive(rank, chunk));
    socket.on('end', () => this.lose(rank, false, 'its heartbeat connection was closed'));
    socket.on('error', (error) => this.lose(rank, false, `its heartbeat connection broke (${error.message})`));
    socket.on('close', () => this.lose(rank, false, 'its heartbeat connection was closed'));
  }

  private joined(rank: number): void {
    this.pulse.heard(rank, performance.now());
    this.post({ type: 'joined', rank });
  }

  private receive(rank: number, bytes: Buffer): void {
    if (bytes.length === 0 || !this.sockets.has(rank)) return;
    if (this.init.rank !== 0 && !this.pulse.knows(rank)) this.joined(rank);
    this.pulse.heard(rank, performance.now());
    if (bytes.includes(BYE)) this.lose(rank, true, 'it left');
  }

  private tick(): void {
    if (this.numTicks++ % 2 === 0) for (const socket of this.sockets.values()) if (!socket.connecting) socket.write(BEAT_BYTES);
    if (this.pulse.silent(performance.now()).length === 0) return;
    // Beats may lie in the sockets' buffers, when it was this process that stood still: sockets are read before this callback.
    setImmediate(() => {
      for (const { rank, silentMs } of this.pulse.silent(performance.now())) {
        this.lose(rank, false, `it does not answer: no heartbeat for ${(silentMs / 1000).toFixed(1)} s`);
      }
    });
  }

  private lose(rank: number, orderly: boolean, reason: string): void {
    const socket = this.sockets.get(rank);
    if (socket === undefined || this.closing) return;
    this.sockets.delete(rank);
    this.pulse.forget(rank);
    socket.destroy();
    const { killAfterMs } = this.init;
    if (this.init.rank !== 0 && killAfterMs !== null) this.killAfter(killAfterMs);
    this.post({ type: 'lost', rank, orderly, reason });
  }

  private close(): void {
    this.closing = true;
    clearInterval(this.timer);
    this.server?.close();
    for (const socket of this.strangers) socket.destroy();
    const sockets = [...this.sockets.values()];
    for (const socket of sockets) socket.end(BYE_BYTES);
    setTimeout(() => sockets.forEach((socket) => socket.destroy()), CLOSE_GRACE_MS).unref();
  }
}

if (parentPort !== null) new HeartbeatThread(workerData as HeartbeatInit, parentPort);
