/** The end of a wait: after some time, or when the caller gives up. */
export class Deadline {
  private readonly controller = new AbortController();
  private readonly timer: NodeJS.Timeout;
  private readonly abort = (): void => this.controller.abort('aborted');

  constructor(
    timeoutMs: number,
    private readonly outer?: AbortSignal,
  ) {
    // The longest time that a timer can have; more means the same to anybody who waits.
    this.timer = setTimeout(() => this.controller.abort('timeout'), Math.min(timeoutMs, 0x7fffffff));
    if (outer?.aborted) this.abort();
    else outer?.addEventListener('abort', this.abort, { once: true });
  }

  /** Why it is over; null while it is not. */
  get over(): 'timeout' | 'aborted' | null {
    return this.controller.signal.aborted ? (this.controller.signal.reason as 'timeout' | 'aborted') : null;
  }

  /** Calls the listener when it is over, at once if it is. @returns removes the listener */
  onOver(listener: () => void): () => void {
    const { signal } = this.controller;
    if (signal.aborted) listener();
    else signal.addEventListener('abort', listener, { once: true });
    return () => signal.removeEventListener('abort', listener);
  }

  /** Resolves after this time, or earlier when it is over. */
  async sleep(ms: number): Promise<void> {
    await new Promise<void>((resolve) => {
      const timer = setTimeout(() => {
        forget();
        resolve();
      }, ms);
      const forget = this.onOver(() => {
        clearTimeout(timer);
        resolve();
      });
    });
  }

  dispose(): void {
    clearTimeout(this.timer);
    this.outer?.removeEventListener('abort', this.abort);
  }
}
