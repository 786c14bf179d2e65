import { ERRORS, KvasirError, messageOf, type ErrorCode } from '../utils/errors';

const MAX_MESSAGE_CHARS = 8192;

/** A failure as one rank reports it to the others. */
export interface RankFailure {
  /** The rank that failed, which need not be the one that tells. */
  readonly rank: number;
  /** Null for anything that is not a KvasirError. */
  readonly code: ErrorCode | null;
  readonly message: string;
}

export function rankFailure(rank: number, error: unknown): RankFailure {
  return { rank, code: error instanceof KvasirError ? error.code : null, message: messageOf(error).slice(0, MAX_MESSAGE_CHARS) };
}

export function encodeFailure(failure: RankFailure): Buffer {
  return Buffer.from(JSON.stringify(failure));
}

/** Never throws: a failure that cannot be read is one all the same. */
export function decodeFailure(payload: Buffer, sender: number): RankFailure {
  const { rank, code, message } = parseObject(payload.toString()) ?? {};
  return {
    rank: typeof rank === 'number' && Number.isInteger(rank) && rank >= 0 ? rank : sender,
    code: typeof code === 'string' && Object.hasOwn(ERRORS, code) ? (code as ErrorCode) : null,
    message: typeof message === 'string' ? message.slice(0, MAX_MESSAGE_CHARS) : 'failed, and its report is damaged',
  };
}

/** The failure of another rank as this rank's users see it; the original error is its cause. */
export function rankError({ rank, code, message }: RankFailure): KvasirError {
  const cause = code === null ? new Error(message) : new KvasirError(code, message);
  return new KvasirError('ERR_KVASIR_RANK', `rank ${rank}: ${message}`, { cause });
}

/** The value of a JSON text that is an object, else null. */
export function parseObject(text: string): Readonly<Record<string, unknown>> | null {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : null;
  } catch {
    return null; // not JSON: the caller says what that means
  }
}

/** The one reason why a group cannot go on, for listeners that come before or after it. */
export class FirstFailure {
  private listeners: ((error: KvasirError) => void)[] = [];
  private first: KvasirError | null = null;
  private silent = false;

  get error(): KvasirError | null {
    return this.first;
  }

  /** Later reports are consequences of the first. */
  report(error: KvasirError): void {
    if (this.first !== null || this.silent) return;
    this.first = error;
    const { listeners } = this;
    this.listeners = [];
    for (const listener of listeners) listener(error);
  }

  on(listener: (error: KvasirError) => void): void {
    if (this.first !== null) listener(this.first);
    else this.listeners.push(listener);
  }

  /** What is reported from now on follows from an end that this rank wanted. */
  silence(): void {
    this.silent = true;
    this.listeners = [];
  }
}
