import type { RequestOutput } from './outputs';
import type { RequestState } from './request-state';

/** How a stream begins and gives up its request. */
export interface StreamSource {
  /** Checks and queues the request; called at the first next(). */
  open(): Promise<RequestState>;
  /** Drops a request that is still running. */
  cancel(request: RequestState): void;
}

/**
 * The outputs of one request as an AsyncGenerator. Unlike a generator function, return() and throw() do not wait for a pending next():
 * they end the request at once. Outputs that nobody has taken yet are merged into one.
 */
export class RequestStream implements AsyncGenerator<RequestOutput, void, undefined> {
  private request: RequestState | null = null;
  private ended = false;
  /** Calls of next() are served one after the other. */
  private last: Promise<unknown> = Promise.resolve();

  constructor(private readonly source: StreamSource) {}

  next(): Promise<IteratorResult<RequestOutput, void>> {
    const result = this.last.then(() => this.pull());
    // Only the order matters here; the caller of that next() has the error.
    this.last = result.catch(() => undefined);
    return result;
  }

  async return(): Promise<IteratorResult<RequestOutput, void>> {
    this.end();
    return { done: true, value: undefined };
  }

  async throw(error: unknown): Promise<IteratorResult<RequestOutput, void>> {
    this.end();
    throw error;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.end();
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  private async pull(): Promise<IteratorResult<RequestOutput, void>> {
    if (this.ended) return { done: true, value: undefined };
    try {
      const request = (this.request ??= await this.source.open());
      // return() may have come while the prompt was rendered.
      if (this.ended) this.source.cancel(request);
      await request.ready();
    } catch (error) {
      this.ended = true;
      throw error;
    }
    if (this.ended || this.request === null) return { done: true, value: undefined };
    const value = this.request.takeOutput();
    if (value.finished) this.ended = true;
    return { done: false, value };
  }

  private end(): void {
    this.ended = true;
    if (this.request !== null && !this.request.ended) this.source.cancel(this.request);
  }
}
