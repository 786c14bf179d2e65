import type { SchedulerOutput } from '../core/types';
import { KvasirError } from '../utils/errors';
import type { Connection, ConnectionEnd } from './connection';
import type { Leader } from './control-plane';
import { PendingExchanges, packExchange } from './exchange';
import { decodeFailure, encodeFailure, FirstFailure, rankError, rankFailure, type RankFailure } from './failure';
import { FRAME_HEADER_BYTES, FrameType, MAX_STEP_BYTES, writeFrameHeader } from './frames';
import type { Heartbeat } from './heartbeat';
import { StepEncoder } from './step-encoder';

/** Time that the other ranks get to end their side of a connection. */
const CLOSE_GRACE_MS = 1000;
/** Time in which a failed rank's own report may come after its heartbeats ended. */
const REPORT_GRACE_MS = 250;

/** Another rank, as rank 0 sees it. */
interface Peer {
  readonly rank: number;
  readonly connection: Connection;
  /** What it sent for exchanges that this or another rank has not come to. */
  readonly inbox: Uint8Array[];
}

/** Rank 0 of a group whose ranks are all there (see leader.ts). Its connections do not keep the process alive, what it waits for does. */
export class TcpLeader implements Leader {
  readonly rank = 0;
  readonly size: number;
  readonly address: string;
  private readonly peers: readonly Peer[];
  private readonly encoder = new StepEncoder(FRAME_HEADER_BYTES);
  private readonly exchanges = new PendingExchanges();
  private readonly failure = new FirstFailure();
  private ended: Promise<void> | null = null;

  /** @param connections of ranks 1, 2, ... */
  constructor(
    connections: readonly Connection[],
    private readonly heartbeat: Heartbeat,
  ) {
    this.size = connections.length + 1;
    this.address = connections[0]?.localAddress ?? '127.0.0.1';
    this.peers = connections.map((connection, i) => ({ rank: i + 1, connection, inbox: [] }));
    for (const peer of this.peers) {
      peer.connection.onFrame = (type, payload) => this.receive(peer, type, payload);
      peer.connection.onBye = () => this.broken({ rank: peer.rank, code: null, message: 'left the group' });
      peer.connection.onEnd = (end) => this.lost(peer, end);
      peer.connection.keepAlive(false);
    }
  }

  async exchange(bytes: Uint8Array): Promise<readonly Uint8Array[]> {
    const result = this.exchanges.add(bytes);
    for (const { connection } of this.peers) connection.keepAlive(true);
    this.finishExchanges();
    try {
      return await result;
    } finally {
      if (this.exchanges.size === 0 && this.ended === null) for (const { connection } of this.peers) connection.keepAlive(false);
    }
  }

  sendStep(step: SchedulerOutput): void {
    if (this.ended !== null) return;
    const frame = this.encoder.encode(step);
    if (frame.length - FRAME_HEADER_BYTES > MAX_STEP_BYTES) {
      throw new KvasirError('ERR_KVASIR_RANK', `expected a step of at most ${MAX_STEP_BYTES} bytes, received one of ${frame.length}`);
    }
    writeFrameHeader(frame, FrameType.step);
    let sent = true;
    for (const { connection } of this.peers) sent = connection.sendFrame(frame) && sent;
    // What the system has not taken yet, it will read from this memory later.
    if (!sent) this.encoder.keep();
  }

  onFailure(listener: (error: KvasirError) => void): void {
    this.failure.on(listener);
  }

  fail(error: unknown): void {
    this.failure.silence();
    this.end(rankFailure(0, error), new KvasirError('ERR_KVASIR_CLOSED', 'the group was ended by the failure of this rank', { cause: error }));
  }

  async close(): Promise<void> {
    this.failure.silence();
    this.end(null, new KvasirError('ERR_KVASIR_CLOSED', 'the group is closed'));
    await this.ended;
  }

  /** The heartbeats of a rank are gone. */
  heartbeatLost(rank: number, reason: string): void {
    // The control connection knows better why, if it is about to say so.
    setTimeout(() => this.broken({ rank, code: null, message: reason }), REPORT_GRACE_MS).unref();
  }

  heartbeatBroken(reason: string): void {
    this.broken({ rank: 0, code: null, message: reason });
  }

  private receive(peer: Peer, type: number, payload: Buffer): void {
    if (this.ended !== null) return;
    switch (type) {
      case FrameType.exchange:
        peer.inbox.push(payload);
        return this.finishExchanges();
      case FrameType.fail:
        return this.broken(decodeFailure(payload, peer.rank));
      default:
        throw new KvasirError('ERR_KVASIR_RANK', `expected no frame of type ${type} from rank ${peer.rank}`);
    }
  }

  private finishExchanges(): void {
    for (let own = this.exchanges.first; own !== null && this.peers.every((peer) => peer.inbox.length > 0); own = this.exchanges.first) {
      const all = [own, ...this.peers.map((peer) => peer.inbox.shift()!)];
      const payload = packExchange(all);
      for (const { connection } of this.peers) connection.send(FrameType.exchanged, payload);
      this.exchanges.resolveFirst(all);
    }
  }

  private lost({ rank }: Peer, end: ConnectionEnd): void {
    if (!end.orderly) this.broken({ rank, code: null, message: `is gone (${end.reason})` });
  }

  /** Another rank cannot go on: so neither can the group, and all ranks are told why. */
  private broken(failure: RankFailure): void {
    if (this.ended !== null) return;
    const error = rankError(failure);
    this.end(failure, error);
    this.failure.report(error);
  }

  /** @param failure to tell the other ranks; null for an orderly end */
  private end(failure: RankFailure | null, reason: KvasirError): void {
    if (this.ended !== null) return;
    const connections = this.peers.map(({ connection }) => {
      if (failure === null) return connection.bye(CLOSE_GRACE_MS);
      connection.send(FrameType.fail, encodeFailure(failure));
      return connection.end(CLOSE_GRACE_MS);
    });
    this.ended = Promise.all([...connections, this.heartbeat.close()]).then(() => undefined);
    this.exchanges.rejectAll(reason);
  }
}
