import type { SchedulerOutput } from '../core/types';
import type { KvasirError } from '../utils/errors';
import type { HeartbeatTimes } from './pulse';

/**
 * What the ranks of a tensor-parallel group tell each other beside tensors: a star of TCP connections with rank 0 in the middle.
 * Implemented by leader.ts (rank 0, made by bindLeader) and follower.ts (the others, made by joinAsFollower).
 */
export interface ControlPlane {
  readonly rank: number;
  readonly size: number;
  /** The address at which the other ranks reach this one's host. */
  readonly address: string;
  /** Every rank's bytes, by rank. All ranks call it in the same order; rejects with ERR_KVASIR_RANK when one is gone. */
  exchange(bytes: Uint8Array): Promise<readonly Uint8Array[]>;
  /**
   * The reason why the group cannot go on: a connection that ended, silence, or what another rank reported of itself. The listener is
   * called once, at once if it happened already, and never for what follows from close().
   */
  onFailure(listener: (error: KvasirError) => void): void;
  /** Tells the other ranks that this one failed and why, then ends the connections. */
  fail(error: unknown): void;
  /** Ends the connections; the other ranks see an orderly end. Idempotent. */
  close(): Promise<void>;
}

/** Rank 0's side. */
export interface Leader extends ControlPlane {
  /** Sends a step to every other rank; does not wait. */
  sendStep(step: SchedulerOutput): void;
}

/** The other ranks' side. */
export interface Follower extends ControlPlane {
  /** Steps in the order in which rank 0 sent them; those that came earlier are given at once. */
  onStep(listener: (step: SchedulerOutput) => void): void;
  /** Rank 0 closed the group. */
  onClose(listener: () => void): void;
}

/** What must be equal on all ranks, each part under a name that an error can say: model, options, version ... */
export type Fingerprint = Readonly<Record<string, string>>;

export interface JoinOptions {
  readonly rank: number;
  readonly size: number;
  readonly host: string;
  /** 0 (rank 0 only): any free port. */
  readonly port: number;
  /** Shown in the first frame, unencrypted; a rank with another one is refused without an answer. Only on a loopback address it may be empty. */
  readonly secret: string;
  readonly fingerprint: Fingerprint;
  /** How long to wait for the other ranks. */
  readonly timeoutMs: number;
  readonly signal?: AbortSignal;
  /** Default: a beat every 500 ms, dead after 4 s without one. All ranks need the same. */
  readonly heartbeat?: HeartbeatTimes;
}

export interface FollowerOptions extends JoinOptions {
  /**
   * When rank 0 is gone and this rank's main thread has not taken note of it after so long, the process kills itself: its main thread
   * hangs, and nobody is left who would end it. Default null: never.
   */
  readonly killAfterMs?: number | null;
  /**
   * When the group failed and {@link Follower.close} was not called after so long, the process kills itself: whatever ends this rank hangs,
   * a device that answers no more for example. Default null: never.
   */
  readonly endWithinMs?: number | null;
}

/** Rank 0 while the others come. */
export interface LeaderServer {
  /** The address and port that it listens on. */
  readonly address: string;
  readonly port: number;
  /**
   * Waits for the other ranks; `timeoutMs` counts from here. To be called once.
   * @throws KvasirError ERR_KVASIR_LAUNCH: ranks did not come, or do not fit
   */
  accept(): Promise<Leader>;
  /** Gives up the start; of a group that came together, what its leader's close() does. */
  close(): Promise<void>;
}
