import { KvasirError } from '../utils/errors';

/** Bytes before each payload: its length (u32, little endian) and its type (u8). */
export const FRAME_HEADER_BYTES = 5;

/** What ranks tell each other over the control connection. */
export const FrameType = {
  /** Follower's first frame (handshake.ts). */
  hello: 1,
  /** Leader: the rank is taken in, and where its heartbeats go. */
  welcome: 2,
  /** Leader: the rank does not fit, and why. */
  refused: 3,
  /** Leader: every rank is there. */
  start: 4,
  /** Follower: its bytes of an exchange. */
  exchange: 5,
  /** Leader: every rank's bytes of an exchange. */
  exchanged: 6,
  /** Leader: a step (step-codec.ts). */
  step: 7,
  /** A rank failed, and why (failure.ts). */
  fail: 8,
  /** The last frame of a connection that ends in order. */
  bye: 9,
} as const;

export type FrameTypeName = keyof typeof FrameType;

const MIB = 1 << 20;
/** An exchange carries addresses and sizes. */
export const MAX_EXCHANGE_BYTES = MIB;
/** A step that brings 256 requests of 128k tokens has 128 MiB. */
export const MAX_STEP_BYTES = 512 * MIB;

const MAX_BYTES: readonly number[] = (() => {
  const caps: Record<FrameTypeName, number> = {
    hello: 64 << 10,
    welcome: 4 << 10,
    refused: 64 << 10,
    start: 0,
    exchange: MAX_EXCHANGE_BYTES,
    exchanged: 512 * MIB,
    step: MAX_STEP_BYTES,
    fail: 64 << 10,
    bye: 0,
  };
  const byType: number[] = [];
  for (const [name, cap] of Object.entries(caps)) byType[FrameType[name as FrameTypeName]] = cap;
  return byType;
})();

/** Fills in the header of a frame that has its payload behind {@link FRAME_HEADER_BYTES} free bytes. */
export function writeFrameHeader(frame: Buffer, type: number): Buffer {
  frame.writeUInt32LE(frame.length - FRAME_HEADER_BYTES, 0);
  frame[4] = type;
  return frame;
}

/** A frame with a copy of the payload: one buffer, so that it is one packet. */
export function frameOf(type: number, payload: Uint8Array): Buffer {
  const frame = Buffer.allocUnsafe(FRAME_HEADER_BYTES + payload.length);
  frame.set(payload, FRAME_HEADER_BYTES);
  return writeFrameHeader(frame, type);
}

export type FrameListener = (type: number, payload: Buffer) => void;

/**
 * Cuts a stream of bytes into frames. A frame that came in one chunk is given as a view of it; others are put together once, when
 * their last byte is there, so that memory follows what was received and never what a header claims.
 */
export class FrameReader {
  private parts: Buffer[] = [];
  private numBuffered = 0;
  /** Bytes that must be there before the next look: those of a header, or of a frame whose header was read. */
  private numWanted = FRAME_HEADER_BYTES;
  private stopped = false;

  /** @param onlyType accepts frames of this type only, until {@link acceptAll}: a stranger's connection may send nothing else */
  constructor(
    private readonly onFrame: FrameListener,
    private onlyType: number | null = null,
  ) {}

  acceptAll(): void {
    this.onlyType = null;
  }

  /** Nothing is given any more, also of chunks that came. */
  stop(): void {
    this.stopped = true;
    this.parts = [];
    this.numBuffered = 0;
  }

  /** @throws KvasirError ERR_KVASIR_RANK for a type that is unknown or not expected, or a length above the type's cap */
  push(chunk: Buffer): void {
    if (this.stopped) return;
    if (this.numBuffered === 0) return this.parse(chunk);
    this.parts.push(chunk);
    this.numBuffered += chunk.length;
    if (this.numBuffered < this.numWanted) return;
    const whole = Buffer.concat(this.parts, this.numBuffered);
    this.parts = [];
    this.numBuffered = 0;
    this.parse(whole);
  }

  private parse(bytes: Buffer): void {
    let at = 0;
    this.numWanted = FRAME_HEADER_BYTES;
    while (bytes.length - at >= FRAME_HEADER_BYTES) {
      const length = bytes.readUInt32LE(at);
      const type = bytes[at + 4]!;
      this.check(type, length);
      const end = at + FRAME_HEADER_BYTES + length;
      if (end > bytes.length) {
        this.numWanted = FRAME_HEADER_BYTES + length;
        break;
      }
      this.onFrame(type, bytes.subarray(at + FRAME_HEADER_BYTES, end));
      if (this.stopped) return;
      at = end;
    }
    if (at === bytes.length) return;
    this.parts.push(at === 0 ? bytes : bytes.subarray(at));
    this.numBuffered = bytes.length - at;
  }

  private check(type: number, length: number): void {
    const cap = MAX_BYTES[type];
    if (cap === undefined || (this.onlyType !== null && type !== this.onlyType)) {
      throw new KvasirError('ERR_KVASIR_RANK', `expected a frame of ${this.onlyType === null ? 'a known type' : `type ${this.onlyType}`}, received type ${type}`);
    }
    if (length > cap) throw new KvasirError('ERR_KVASIR_RANK', `expected at most ${cap} bytes in a frame of type ${type}, received a length of ${length}`);
  }
}
