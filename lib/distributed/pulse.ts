/** Times of the heartbeats, in milliseconds. */
export interface HeartbeatTimes {
  /** Between two beats of a rank. */
  readonly intervalMs: number;
  /** After this long without a beat a rank is taken for dead. */
  readonly silenceMs: number;
}

/** A stopped rank is found out within 5 s. */
export const HEARTBEAT_TIMES: HeartbeatTimes = { intervalMs: 500, silenceMs: 4000 };

/**
 * When which rank was heard last. Whoever looks must do so often: a long time since the last look means that this very process was
 * stopped or starved. Others beat meanwhile, or were stopped with it (a suspended terminal, a paused machine), so that all of them
 * get the whole time once more.
 */
export class PulseMonitor {
  private readonly lastHeard = new Map<number, number>();

  constructor(
    private readonly silenceMs: number,
    private lastLook: number,
  ) {}

  heard(rank: number, now: number): void {
    this.lastHeard.set(rank, now);
  }

  /** Whether the rank was heard, and not forgotten since. */
  knows(rank: number): boolean {
    return this.lastHeard.has(rank);
  }

  forget(rank: number): void {
    this.lastHeard.delete(rank);
  }

  /** Ranks that were silent for too long, and for how long. */
  silent(now: number): { rank: number; silentMs: number }[] {
    if (now - this.lastLook > this.silenceMs / 2) for (const rank of this.lastHeard.keys()) this.lastHeard.set(rank, now);
    this.lastLook = now;
    const found = [];
    for (const [rank, heard] of this.lastHeard) if (now - heard > this.silenceMs) found.push({ rank, silentMs: now - heard });
    return found;
  }
}
