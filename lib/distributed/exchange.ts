import { KvasirError } from '../utils/errors';
import { MAX_EXCHANGE_BYTES } from './frames';

/** A call of exchange() that waits for the other ranks. */
interface PendingExchange {
  readonly bytes: Uint8Array;
  readonly resolve: (all: readonly Uint8Array[]) => void;
  readonly reject: (error: KvasirError) => void;
}

/** The calls of exchange() that wait, oldest first: that is the order in which the results come. */
export class PendingExchanges {
  private calls: PendingExchange[] = [];
  private end: KvasirError | null = null;

  get first(): Uint8Array | null {
    return this.calls[0]?.bytes ?? null;
  }

  get size(): number {
    return this.calls.length;
  }

  /** @throws KvasirError ERR_KVASIR_LAUNCH for too many bytes; rejects with what {@link rejectAll} was given, also after it */
  add(bytes: Uint8Array): Promise<readonly Uint8Array[]> {
    if (bytes.length > MAX_EXCHANGE_BYTES) {
      throw new KvasirError('ERR_KVASIR_LAUNCH', `exchange: expected at most ${MAX_EXCHANGE_BYTES} bytes, received ${bytes.length}`);
    }
    if (this.end !== null) return Promise.reject(this.end);
    return new Promise((resolve, reject) => this.calls.push({ bytes, resolve, reject }));
  }

  resolveFirst(all: readonly Uint8Array[]): void {
    this.calls.shift()?.resolve(all);
  }

  rejectAll(error: KvasirError): void {
    if (this.end !== null) return;
    this.end = error;
    for (const call of this.calls) call.reject(error);
    this.calls = [];
  }
}

/** Every rank's bytes in one payload: for each rank its length (u32, little endian), then its bytes. */
export function packExchange(all: readonly Uint8Array[]): Buffer {
  const lengths = all.map((bytes) => {
    const length = Buffer.alloc(4);
    length.writeUInt32LE(bytes.length);
    return length;
  });
  return Buffer.concat(all.flatMap((bytes, rank) => [lengths[rank]!, bytes]));
}

/** @throws KvasirError ERR_KVASIR_RANK for damaged bytes */
export function unpackExchange(payload: Buffer, size: number): readonly Uint8Array[] {
  const all: Uint8Array[] = [];
  let at = 0;
  while (all.length < size && at + 4 <= payload.length) {
    const from = at + 4;
    at = from + payload.readUInt32LE(at);
    if (at <= payload.length) all.push(payload.subarray(from, at));
  }
  if (all.length !== size || at !== payload.length) throw new KvasirError('ERR_KVASIR_RANK', `expected the bytes of ${size} ranks, received a damaged exchange`);
  return all;
}
