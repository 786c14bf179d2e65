import type { HeartbeatTimes } from './pulse';

/** What the thread of the heartbeats is given. */
export interface HeartbeatInit extends HeartbeatTimes {
  /** This rank; rank 0 listens, the others connect to it. */
  readonly rank: number;
  readonly size: number;
  readonly address: string;
  /** Rank 0: any free port is taken, and told. */
  readonly port: number;
  /** Shown in the first bytes of a connection. */
  readonly token: Uint8Array;
  /** When this rank has lost rank 0 and its main thread has not acknowledged that after so long, the process is killed; null: never. */
  readonly killAfterMs: number | null;
}

export type FromHeartbeat =
  | { readonly type: 'listening'; readonly port: number }
  /** Beats of this rank arrive. */
  | { readonly type: 'joined'; readonly rank: number }
  /** A rank is gone; `orderly` when it said so before. `acknowledge` is expected. */
  | { readonly type: 'lost'; readonly rank: number; readonly orderly: boolean; readonly reason: string }
  /** The thread cannot do its work. */
  | { readonly type: 'broken'; readonly reason: string };

export type ToHeartbeat =
  | { readonly type: 'acknowledge' }
  /** The group failed: no more heartbeats, and unless `close` comes within this time, the process is killed. */
  | { readonly type: 'guard'; readonly ms: number }
  | { readonly type: 'close' };
