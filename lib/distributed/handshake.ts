import { createHash, timingSafeEqual } from 'node:crypto';
import { describeValue } from '../utils/describe-value';
import { KvasirError } from '../utils/errors';
import type { Fingerprint } from './control-plane';
import { parseObject } from './failure';

/** Raised with every change of a frame's meaning. The head of a hello keeps its layout, so that any two versions can tell. */
export const PROTOCOL_VERSION = 1;
/** Bytes of the token that a follower's heartbeat connection shows. */
export const TOKEN_BYTES = 32;

const MAGIC = Buffer.from('KVASIRTP');
/** Magic, version (u32), length of the secret (u32). */
const HEAD_BYTES = MAGIC.length + 8;
const MAX_SECRET_BYTES = 4096;
const MAX_HELLO_BYTES = 64 << 10;

/** What a follower says of itself. */
export interface Hello {
  readonly rank: number;
  readonly size: number;
  readonly fingerprint: Fingerprint;
}

/** What the leader answers to a follower that fits. */
export interface Welcome {
  /** Of the leader's heartbeat server, on the same host. */
  readonly heartbeatPort: number;
  /** Shown by the heartbeat connection. */
  readonly token: Buffer;
}

/** The payload of a follower's first frame: magic, version, secret, then JSON. */
export function encodeHello(hello: Hello, secret: string): Buffer {
  const secretBytes = Buffer.from(secret);
  const head = Buffer.alloc(HEAD_BYTES);
  MAGIC.copy(head);
  head.writeUInt32LE(PROTOCOL_VERSION, MAGIC.length);
  head.writeUInt32LE(secretBytes.length, MAGIC.length + 4);
  const payload = Buffer.concat([head, secretBytes, Buffer.from(JSON.stringify(hello))]);
  if (secretBytes.length > MAX_SECRET_BYTES || payload.length > MAX_HELLO_BYTES) {
    throw new KvasirError(
      'ERR_KVASIR_LAUNCH',
      `expected a secret of at most ${MAX_SECRET_BYTES} bytes, and with the fingerprint ${MAX_HELLO_BYTES}; received ${secretBytes.length} and ${payload.length}`,
    );
  }
  return payload;
}

/**
 * Reads a first frame. Null for a stranger, who gets no answer: other bytes, or another secret. A string is what is wrong with the hello
 * of somebody who knows the secret.
 */
export function decodeHello(payload: Buffer, secret: string): Hello | string | null {
  if (payload.length < HEAD_BYTES || !payload.subarray(0, MAGIC.length).equals(MAGIC)) return null;
  const version = payload.readUInt32LE(MAGIC.length);
  const end = HEAD_BYTES + payload.readUInt32LE(MAGIC.length + 4);
  if (end > payload.length || !secretsEqual(payload.subarray(HEAD_BYTES, end), Buffer.from(secret))) return null;
  if (version !== PROTOCOL_VERSION) return `speaks version ${version} of the protocol, and rank 0 version ${PROTOCOL_VERSION}`;
  const { rank, size, fingerprint } = parseObject(payload.toString('utf8', end)) ?? {};
  if (!isCount(rank) || !isCount(size) || !isFingerprint(fingerprint)) return 'sent a damaged hello';
  return { rank, size, fingerprint };
}

/** Compares digests, so that neither contents nor lengths show in the time that it takes. */
export function secretsEqual(a: Uint8Array, b: Uint8Array): boolean {
  const digest = (bytes: Uint8Array): Buffer => createHash('sha256').update(bytes).digest();
  return timingSafeEqual(digest(a), digest(b));
}

/** How a fingerprint differs from that of rank 0: the first part that does; null when equal. */
export function fingerprintDifference(of: Fingerprint, leader: Fingerprint): string | null {
  for (const name of new Set([...Object.keys(leader), ...Object.keys(of)])) {
    const [mine, its] = [leader, of].map((print) => (Object.hasOwn(print, name) ? print[name] : undefined));
    if (mine !== its) return `has ${name} ${describeValue(its)}, and rank 0 ${describeValue(mine)}`;
  }
  return null;
}

export function encodeWelcome({ heartbeatPort, token }: Welcome): Buffer {
  return Buffer.from(JSON.stringify({ heartbeatPort, token: token.toString('hex') }));
}

/** @throws KvasirError ERR_KVASIR_RANK for damaged bytes */
export function decodeWelcome(payload: Buffer): Welcome {
  const { heartbeatPort, token } = parseObject(payload.toString()) ?? {};
  if (!isCount(heartbeatPort) || heartbeatPort > 65535 || typeof token !== 'string' || !/^[0-9a-f]+$/.test(token) || token.length !== 2 * TOKEN_BYTES) {
    throw new KvasirError('ERR_KVASIR_RANK', 'expected the welcome of rank 0, received damaged bytes');
  }
  return { heartbeatPort, token: Buffer.from(token, 'hex') };
}

function isCount(value: unknown): value is number {
  return typeof value === 'number' && Number.isInteger(value) && value >= 0;
}

function isFingerprint(value: unknown): value is Fingerprint {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && Object.values(value).every((part) => typeof part === 'string');
}
