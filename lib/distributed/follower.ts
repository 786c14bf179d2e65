import * as net from 'node:net';
import { KvasirError, messageOf } from '../utils/errors';
import { Connection } from './connection';
import type { Follower, FollowerOptions } from './control-plane';
import { Deadline } from './deadline';
import { TcpFollower } from './tcp-follower';
import { FrameType } from './frames';
import { decodeWelcome, encodeHello } from './handshake';
import { resolveHost } from './host';
import { HEARTBEAT_TIMES } from './pulse';

const FIRST_PAUSE_MS = 50;
const LONGEST_PAUSE_MS = 500;
/** An attempt to connect to a host that does not answer is given up after this, since the host may come up meanwhile. */
const CONNECT_TIMEOUT_MS = 5000;
/** So often a connection may be closed without an answer: rank 0 is there, and does not know this rank. */
const MAX_UNANSWERED = 3;

/**
 * Joins the group of rank 0 as another rank; resolves when all ranks are there. Until `timeoutMs` have passed rank 0 need not listen
 * yet, nor its name resolve.
 * @throws KvasirError ERR_KVASIR_LAUNCH: rank 0 is not found, refuses this rank and says why, or the other ranks do not come
 */
export async function joinAsFollower(options: FollowerOptions): Promise<Follower> {
  const { rank, size } = options;
  if (!Number.isInteger(rank) || !Number.isInteger(size) || rank < 1 || rank >= size) {
    throw new KvasirError('ERR_KVASIR_LAUNCH', `expected a rank in 1..size - 1 to join a group, received rank ${rank} of ${size}`);
  }
  const hello = encodeHello({ rank, size, fingerprint: options.fingerprint }, options.secret);
  const deadline = new Deadline(options.timeoutMs, options.signal);
  try {
    const follower = await findLeader(options, hello, deadline);
    const stop = deadline.onOver(() => follower.fail(launchError(options, deadline, 'rank 0 waits for other ranks')));
    try {
      await follower.started;
    } catch (error) {
      await follower.close();
      throw deadline.over === null ? error : launchError(options, deadline, 'rank 0 waits for other ranks');
    } finally {
      stop();
    }
    return follower;
  } finally {
    deadline.dispose();
  }
}

async function findLeader(options: FollowerOptions, hello: Buffer, deadline: Deadline): Promise<TcpFollower> {
  let numUnanswered = 0;
  let problem = 'no attempt was made';
  for (let attempt = 0; deadline.over === null; attempt++) {
    try {
      const address = await resolveHost(options.host, options.secret, attempt);
      return await new Attempt(options, address, hello, deadline).result;
    } catch (error) {
      if (error instanceof KvasirError) throw error;
      problem = messageOf(error);
      if (error instanceof Unanswered && ++numUnanswered >= MAX_UNANSWERED) {
        throw new KvasirError('ERR_KVASIR_LAUNCH', `rank ${options.rank}: ${problem}`);
      }
    }
    await deadline.sleep(Math.min(FIRST_PAUSE_MS * 2 ** attempt, LONGEST_PAUSE_MS));
  }
  throw launchError(options, deadline, problem);
}

function launchError({ rank, host, port, timeoutMs }: FollowerOptions, deadline: Deadline, problem: string): KvasirError {
  const how = deadline.over === 'aborted' ? 'the start was aborted' : `expected the group of rank 0 at ${host}:${port} to be complete within ${timeoutMs} ms`;
  return new KvasirError('ERR_KVASIR_LAUNCH', `rank ${rank}: ${how}; ${problem}`);
}

class Unanswered extends Error {}

/** One connection to what may be rank 0. A KvasirError is its last word; after other errors it makes sense to try again. */
class Attempt {
  readonly result: Promise<TcpFollower>;
  private readonly socket: net.Socket;
  private resolve!: (follower: TcpFollower) => void;
  private reject!: (error: Error) => void;
  private readonly connectTimer: NodeJS.Timeout;
  private readonly stop: () => void;

  constructor(
    private readonly options: FollowerOptions,
    private readonly address: string,
    private readonly hello: Buffer,
    deadline: Deadline,
  ) {
    this.result = new Promise((resolve, reject) => {
      this.resolve = resolve;
      this.reject = reject;
    });
    this.socket = net.connect({ host: address, port: options.port });
    this.connectTimer = setTimeout(() => this.give(new Error(`${this.where} does not answer`)), CONNECT_TIMEOUT_MS);
    this.stop = deadline.onOver(() => this.give(new Error(`${this.where} does not answer`)));
    this.socket.once('error', (error) => this.give(error));
    this.socket.once('connect', () => this.connected());
  }

  private get where(): string {
    return `${this.options.host}:${this.options.port}`;
  }

  private give(error: Error): void {
    this.settled();
    this.socket.destroy();
    this.reject(error);
  }

  private settled(): void {
    clearTimeout(this.connectTimer);
    this.stop();
  }

  private connected(): void {
    clearTimeout(this.connectTimer);
    // With nobody listening, a port that is given to outgoing connections can be connected to itself.
    if (this.socket.localPort === this.socket.remotePort && this.socket.localAddress === this.socket.remoteAddress) {
      return this.give(new Error(`${this.where} does not answer`));
    }
    const connection = new Connection(this.socket);
    connection.onEnd = () => this.give(new Unanswered(`${this.where} closed the connection without an answer; expected rank 0 of a group with the same secret`));
    connection.onFrame = (type, payload) => this.answered(connection, type, payload);
    connection.send(FrameType.hello, this.hello);
  }

  private answered(connection: Connection, type: number, payload: Buffer): void {
    if (type === FrameType.refused) return this.give(new KvasirError('ERR_KVASIR_LAUNCH', payload.toString()));
    if (type !== FrameType.welcome) return this.give(new Unanswered(`${this.where} answered with a frame of type ${type}; expected rank 0 of a group`));
    const { heartbeatPort, token } = decodeWelcome(payload);
    const { rank, size, heartbeat, killAfterMs, endWithinMs } = this.options;
    const init = { ...(heartbeat ?? HEARTBEAT_TIMES), rank, size, address: this.address, port: heartbeatPort, token, killAfterMs: killAfterMs ?? null };
    this.settled();
    // Made here and not by whoever waits for the result, who comes later than the frame that may follow in the same chunk.
    this.resolve(new TcpFollower(connection, init, endWithinMs ?? null));
  }
}
