import type { SchedulerOutput } from '../core/types';
import { KvasirError } from '../utils/errors';
import type { Connection, ConnectionEnd } from './connection';
import type { Follower } from './control-plane';
import { PendingExchanges, unpackExchange } from './exchange';
import { decodeFailure, encodeFailure, FirstFailure, rankError, rankFailure } from './failure';
import { FrameType } from './frames';
import { Heartbeat } from './heartbeat';
import type { HeartbeatInit } from './heartbeat-messages';
import { StepDecoder } from './step-decoder';

/** Time that rank 0 gets to end its side of the connection. */
const CLOSE_GRACE_MS = 1000;
/** Time in which rank 0's own report may come after its heartbeats ended. */
const REPORT_GRACE_MS = 250;

/** A rank that rank 0 has taken in (see follower.ts). Its connection keeps the process alive. */
export class TcpFollower implements Follower {
  readonly rank: number;
  readonly size: number;
  readonly address: string;
  /** Resolves when all ranks are there; rejects with ERR_KVASIR_LAUNCH when they do not come. */
  readonly started: Promise<void>;
  private readonly heartbeat: Heartbeat;
  private readonly decoder = new StepDecoder();
  private readonly exchanges = new PendingExchanges();
  private readonly failure = new FirstFailure();
  private settleStart: { readonly resolve: () => void; readonly reject: (error: KvasirError) => void } | null = null;
  private onStepListener: ((step: SchedulerOutput) => void) | null = null;
  /** Steps that came before there was a listener. */
  private earlySteps: SchedulerOutput[] = [];
  private closeListeners: (() => void)[] = [];
  private leaderClosed = false;
  private ended: Promise<void> | null = null;

  constructor(
    private readonly connection: Connection,
    init: HeartbeatInit,
    private readonly endWithinMs: number | null,
  ) {
    this.rank = init.rank;
    this.size = init.size;
    this.address = connection.localAddress;
    this.started = new Promise((resolve, reject) => (this.settleStart = { resolve, reject }));
    connection.onFrame = (type, payload) => this.receive(type, payload);
    connection.onBye = () => this.leaderLeft();
    connection.onEnd = (end) => this.lost(end);
    this.heartbeat = new Heartbeat(init, {
      onJoined: () => undefined,
      // The control connection knows better why, if it is about to say so.
      onLost: (_, reason) => void setTimeout(() => this.broken(rankError({ rank: 0, code: null, message: reason })), REPORT_GRACE_MS).unref(),
      onBroken: (reason) => this.broken(rankError({ rank: this.rank, code: null, message: reason }), true),
    });
  }

  exchange(bytes: Uint8Array): Promise<readonly Uint8Array[]> {
    let result: Promise<readonly Uint8Array[]>;
    try {
      result = this.exchanges.add(bytes);
    } catch (error) {
      return Promise.reject(error as Error);
    }
    this.connection.send(FrameType.exchange, bytes);
    return result;
  }

  onStep(listener: (step: SchedulerOutput) => void): void {
    this.onStepListener = listener;
    const steps = this.earlySteps;
    this.earlySteps = [];
    for (const step of steps) listener(step);
  }

  onClose(listener: () => void): void {
    if (this.leaderClosed) listener();
    else this.closeListeners.push(listener);
  }

  onFailure(listener: (error: KvasirError) => void): void {
    this.failure.on(listener);
  }

  fail(error: unknown): void {
    this.failure.silence();
    this.end(error, new KvasirError('ERR_KVASIR_CLOSED', 'the group was ended by the failure of this rank', { cause: error }));
  }

  async close(): Promise<void> {
    this.failure.silence();
    this.end(null, new KvasirError('ERR_KVASIR_CLOSED', 'the group is closed'));
    await this.ended;
    await this.heartbeat.close();
  }

  private receive(type: number, payload: Buffer): void {
    if (this.ended !== null) return;
    switch (type) {
      case FrameType.step:
        return this.receiveStep(payload);
      case FrameType.exchanged:
        return this.exchanges.resolveFirst(unpackExchange(payload, this.size));
      case FrameType.start:
        this.settleStart?.resolve();
        this.settleStart = null;
        return;
      case FrameType.fail:
        return this.broken(rankError(decodeFailure(payload, 0)));
      default:
        throw new KvasirError('ERR_KVASIR_RANK', `expected no frame of type ${type} from rank 0`);
    }
  }

  private receiveStep(payload: Buffer): void {
    let step: SchedulerOutput;
    try {
      step = this.decoder.decode(payload);
    } catch (error) {
      if (!(error instanceof KvasirError)) throw error;
      return this.broken(error, true);
    }
    if (this.onStepListener === null) this.earlySteps.push(step);
    else this.onStepListener(step);
  }

  private leaderLeft(): void {
    if (this.settleStart !== null || this.ended !== null) return;
    this.failure.silence();
    this.leaderClosed = true;
    this.end(null, new KvasirError('ERR_KVASIR_CLOSED', 'rank 0 closed the group'));
    const listeners = this.closeListeners;
    this.closeListeners = [];
    for (const listener of listeners) listener();
  }

  private lost(end: ConnectionEnd): void {
    const how = end.orderly ? 'it closed the group' : end.reason;
    this.broken(rankError({ rank: 0, code: null, message: `is gone (${how})` }));
  }

  /** @param own the failure is this rank's, and rank 0 does not know of it */
  private broken(error: KvasirError, own = false): void {
    if (this.ended !== null) return;
    this.end(own ? error : undefined, error);
    this.failure.report(error);
  }

  /** @param failure of this rank, to tell rank 0; null for an orderly end, undefined when rank 0 knows or is gone */
  private end(failure: unknown, reason: KvasirError): void {
    if (this.ended !== null) return;
    if (failure !== null && failure !== undefined) this.connection.send(FrameType.fail, encodeFailure(rankFailure(this.rank, failure)));
    const connection = failure === null ? this.connection.bye(CLOSE_GRACE_MS) : this.connection.end(CLOSE_GRACE_MS);
    if (failure !== null && this.endWithinMs !== null) this.heartbeat.guard(this.endWithinMs);
    else void this.heartbeat.close();
    this.ended = connection;
    this.exchanges.rejectAll(reason);
    this.settleStart?.reject(new KvasirError('ERR_KVASIR_LAUNCH', reason.message, { cause: reason }));
    this.settleStart = null;
  }
}
