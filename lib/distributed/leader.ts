import { randomBytes } from 'node:crypto';
import * as net from 'node:net';
import { KvasirError, messageOf } from '../utils/errors';
import { Connection } from './connection';
import type { JoinOptions, Leader, LeaderServer } from './control-plane';
import { Deadline } from './deadline';
import { decodeFailure, encodeFailure, rankFailure } from './failure';
import { FrameType } from './frames';
import { decodeHello, encodeWelcome, fingerprintDifference, TOKEN_BYTES, type Hello } from './handshake';
import { Heartbeat } from './heartbeat';
import { resolveHost } from './host';
import { TcpLeader } from './tcp-leader';
import { HEARTBEAT_TIMES } from './pulse';

/** Time that a stranger gets for its first frame, and how many strangers may be at it. */
const HELLO_TIMEOUT_MS = 5000;
const MAX_STRANGERS = 128;
/** Time that a connection gets to take the last words and end. */
const END_GRACE_MS = 1000;

/**
 * Listens as rank 0, so that the other ranks can be started with its port; {@link LeaderServer.accept} then waits for them. Nothing but the
 * given host's address is listened on, for control connections on `port` and for heartbeats on a free port, both only until all are there.
 * @throws KvasirError ERR_KVASIR_LAUNCH when the address cannot be listened on, or others reach it and there is no secret
 */
export async function bindLeader(options: JoinOptions): Promise<LeaderServer> {
  if (options.rank !== 0 || !Number.isInteger(options.size) || options.size < 1) {
    throw new KvasirError('ERR_KVASIR_LAUNCH', `expected rank 0 of a group to lead it, received rank ${options.rank} of ${options.size}`);
  }
  try {
    const address = await resolveHost(options.host, options.secret);
    const gathering = new Gathering(options, address);
    await gathering.listen();
    return gathering;
  } catch (error) {
    if (error instanceof KvasirError) throw error;
    throw new KvasirError('ERR_KVASIR_LAUNCH', `rank 0 cannot listen at ${options.host}:${options.port}: ${messageOf(error)}`, { cause: error });
  }
}

/** The ranks that have come so far. */
class Gathering implements LeaderServer {
  port = 0;
  private readonly server: net.Server;
  private readonly heartbeat: Heartbeat;
  private readonly token = randomBytes(TOKEN_BYTES);
  private readonly strangers = new Set<Connection>();
  private readonly joined = new Map<number, Connection>();
  private readonly beating = new Set<number>();
  private heartbeatPort = 0;
  private numRefusedSecrets = 0;
  private leader: TcpLeader | null = null;
  private failure: KvasirError | null = null;
  private settle: (() => void) | null = null;

  constructor(
    private readonly options: JoinOptions,
    readonly address: string,
  ) {
    this.server = net.createServer((socket) => this.meet(socket));
    const times = options.heartbeat ?? HEARTBEAT_TIMES;
    this.heartbeat = new Heartbeat(
      { ...times, rank: 0, size: options.size, address, port: 0, token: this.token, killAfterMs: null },
      {
        onJoined: (rank) => {
          this.beating.add(rank);
          this.completeIfAllCame();
        },
        onLost: (rank, reason) => (this.leader === null ? this.fail(`rank ${rank} is gone: ${reason}`) : this.leader.heartbeatLost(rank, reason)),
        onBroken: (reason) => (this.leader === null ? this.fail(reason) : this.leader.heartbeatBroken(reason)),
      },
    );
  }

  /** Rejects with errors of listen(). */
  async listen(): Promise<void> {
    try {
      // First, since whoever is welcome is told of it.
      this.heartbeatPort = await this.heartbeat.port;
      await new Promise<void>((resolve, reject) => {
        this.server.once('error', reject);
        this.server.listen({ host: this.address, port: this.options.port }, resolve);
      });
      this.server.on('error', (error) => this.fail(`rank 0 can take no more connections: ${error.message}`));
      this.port = (this.server.address() as net.AddressInfo).port;
    } catch (error) {
      await this.heartbeat.close();
      throw error;
    }
  }

  async accept(): Promise<Leader> {
    const deadline = new Deadline(this.options.timeoutMs, this.options.signal);
    deadline.onOver(() => this.fail(this.missing(deadline)));
    try {
      this.completeIfAllCame();
      if (this.leader === null && this.failure === null) await new Promise<void>((resolve) => (this.settle = resolve));
    } finally {
      deadline.dispose();
    }
    if (this.leader === null) throw this.failure!;
    return this.leader;
  }

  async close(): Promise<void> {
    if (this.leader !== null) return this.leader.close();
    this.fail('rank 0 gave up the start');
    await this.heartbeat.close();
  }

  /** Whoever connects has to say hello first, and gets little time and memory for it. */
  private meet(socket: net.Socket): void {
    const [oldest] = this.strangers;
    if (this.strangers.size >= MAX_STRANGERS) this.forget(oldest!);
    const connection = new Connection(socket, FrameType.hello);
    this.strangers.add(connection);
    const timer = setTimeout(() => this.forget(connection), HELLO_TIMEOUT_MS);
    void connection.closed.then(() => clearTimeout(timer));
    connection.onEnd = () => this.forget(connection);
    connection.onFrame = (_, payload) => {
      clearTimeout(timer);
      this.answer(connection, payload);
    };
  }

  private forget(connection: Connection): void {
    this.strangers.delete(connection);
    connection.destroy();
  }

  private answer(connection: Connection, payload: Buffer): void {
    const hello = decodeHello(payload, this.options.secret);
    if (hello === null) {
      this.numRefusedSecrets++;
      return this.forget(connection);
    }
    this.strangers.delete(connection);
    const problem = typeof hello === 'string' ? hello : this.problemOf(hello);
    if (problem !== null) return this.refuse(connection, `${typeof hello === 'string' ? 'a rank' : `rank ${hello.rank}`} ${problem}`);
    const { rank } = hello as Hello;
    connection.trust();
    this.joined.set(rank, connection);
    connection.onFrame = (type, failure) => {
      const what = type === FrameType.fail ? decodeFailure(failure, rank).message : `sent a frame of type ${type} before the start`;
      // It says itself which rank it is where it can.
      this.fail(what.startsWith(`rank ${rank}`) ? what : `rank ${rank}: ${what}`);
    };
    connection.onEnd = () => this.fail(`rank ${rank} ended before all ranks had come`);
    connection.send(FrameType.welcome, encodeWelcome({ heartbeatPort: this.heartbeatPort, token: this.token }));
    this.completeIfAllCame();
  }

  private problemOf({ rank, size, fingerprint }: Hello): string | null {
    if (size !== this.options.size) return `was told of a group of ${size}, and rank 0 of ${this.options.size}`;
    if (rank < 1 || rank >= size) return `cannot join: expected a rank in 1..${size - 1}`;
    if (this.joined.has(rank)) return 'is there already: two processes have the same rank';
    return fingerprintDifference(fingerprint, this.options.fingerprint);
  }

  private refuse(connection: Connection, message: string): void {
    connection.send(FrameType.refused, Buffer.from(message));
    connection.onEnd = () => undefined;
    void connection.end(END_GRACE_MS);
    this.fail(message);
  }

  /** The leader takes the connections over before the others hear of the start, so that it sees the first frame after it. */
  private completeIfAllCame(): void {
    const numOthers = this.options.size - 1;
    if (this.leader !== null || this.failure !== null || this.joined.size < numOthers || this.beating.size < numOthers) return;
    const connections = Array.from({ length: numOthers }, (_, i) => this.joined.get(i + 1)!);
    this.stopListening();
    this.leader = new TcpLeader(connections, this.heartbeat);
    for (const connection of connections) connection.send(FrameType.start);
    this.settle?.();
  }

  /** Ends the start, for all ranks. */
  private fail(reason: string): void {
    if (this.failure !== null || this.leader !== null) return;
    this.failure = new KvasirError('ERR_KVASIR_LAUNCH', reason);
    this.stopListening();
    const report = encodeFailure(rankFailure(0, this.failure));
    for (const connection of this.joined.values()) {
      connection.onFrame = () => undefined;
      connection.onEnd = () => undefined;
      connection.send(FrameType.fail, report);
      void connection.end(END_GRACE_MS);
    }
    void this.heartbeat.close();
    this.settle?.();
  }

  private stopListening(): void {
    this.server.close();
    for (const connection of this.strangers) connection.destroy();
    this.strangers.clear();
  }

  private missing(deadline: Deadline): string {
    if (deadline.over === 'aborted') return 'the start was aborted';
    const missing = Array.from({ length: this.options.size - 1 }, (_, i) => i + 1).filter((rank) => !this.joined.has(rank) || !this.beating.has(rank));
    const refused = this.numRefusedSecrets === 0 ? '' : `; ${this.numRefusedSecrets} connections showed another secret, or none`;
    return `expected ${this.options.size} ranks within ${this.options.timeoutMs} ms, rank ${missing.join(', ')} did not come to ${this.options.host}:${this.port}${refused}`;
  }
}
