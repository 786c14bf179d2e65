import type { Socket } from 'node:net';
import { FrameReader, frameOf, FrameType, type FrameListener } from './frames';

const NOTHING = new Uint8Array(0);

/** Why a connection ended: the other side said so before, or what is known. */
export type ConnectionEnd = { readonly orderly: true } | { readonly orderly: false; readonly reason: string };

/** A TCP connection that carries frames. Owns its socket. */
export class Connection {
  /** May be replaced at any time, also while a chunk is being read. A frame `bye` is not given. */
  onFrame: FrameListener = () => undefined;
  /** The other side said that it ends the connection. */
  onBye: () => void = () => undefined;
  /** Called once, when the other side has ended the connection or it broke; not after {@link destroy}. */
  onEnd: (end: ConnectionEnd) => void = () => undefined;
  /** Resolves when the socket is closed. */
  readonly closed: Promise<void>;
  /** The address of this end. */
  readonly localAddress: string;
  private readonly reader: FrameReader;
  private saidBye = false;
  private ended = false;

  /** @param onlyType of the frames that are accepted before {@link trust} */
  constructor(
    private readonly socket: Socket,
    onlyType: number | null = null,
  ) {
    this.localAddress = socket.localAddress ?? '127.0.0.1'; // of a connection that broke at once
    this.reader = new FrameReader((type, payload) => this.receive(type, payload), onlyType);
    socket.setNoDelay(true);
    socket.on('data', (chunk) => this.read(chunk));
    socket.on('end', () => this.finish('the connection was closed'));
    socket.on('error', (error) => this.finish(error.message));
    this.closed = new Promise((resolve) => {
      socket.once('close', () => {
        this.finish('the connection was closed');
        resolve();
      });
    });
  }

  /** From now on frames of all types are accepted. */
  trust(): void {
    this.reader.acceptAll();
  }

  send(type: number, payload: Uint8Array = NOTHING): void {
    this.sendFrame(frameOf(type, payload));
  }

  /** @returns whether the bytes are gone already, so that the frame's memory may be used again */
  sendFrame(frame: Buffer): boolean {
    if (!this.socket.writable) return true;
    this.socket.write(frame);
    return this.socket.writableLength === 0;
  }

  /** Sends what is under way, then ends the connection; the other side gets `graceMs` to do the same. */
  end(graceMs: number): Promise<void> {
    if (this.socket.destroyed) return this.closed;
    this.socket.end();
    const timer = setTimeout(() => this.socket.destroy(), graceMs);
    void this.closed.then(() => clearTimeout(timer));
    // Somebody waits for the end, but nobody for the process.
    this.socket.ref();
    return this.closed;
  }

  /** Says that this is the end in order, and ends the connection. */
  bye(graceMs: number): Promise<void> {
    this.send(FrameType.bye);
    return this.end(graceMs);
  }

  /** Ends the connection at once and silently. */
  destroy(): void {
    this.ended = true;
    this.reader.stop();
    this.socket.destroy();
  }

  /** Whether the connection keeps the process alive. */
  keepAlive(on: boolean): void {
    if (on) this.socket.ref();
    else this.socket.unref();
  }

  private read(chunk: Buffer): void {
    let problem: string;
    try {
      this.reader.push(chunk);
      return;
    } catch (error) {
      if (!isFrameError(error)) throw error;
      problem = error.message;
    }
    this.finish(problem);
    this.reader.stop();
    this.socket.destroy();
  }

  private receive(type: number, payload: Buffer): void {
    if (type !== FrameType.bye) return this.onFrame(type, payload);
    this.saidBye = true;
    this.onBye();
  }

  private finish(reason: string): void {
    if (this.ended) return;
    this.ended = true;
    this.onEnd(this.saidBye ? { orderly: true } : { orderly: false, reason });
  }
}

/** Damaged bytes end the connection; an error of a listener is a bug and goes on its way. */
function isFrameError(error: unknown): error is Error {
  return error instanceof Error && (error as { code?: unknown }).code === 'ERR_KVASIR_RANK';
}
