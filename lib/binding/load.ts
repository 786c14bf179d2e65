import * as fs from 'node:fs';
import * as path from 'node:path';
import { ERRORS, KvasirError, messageOf, type ErrorCode } from '../utils/errors';
import type { NativeBinding } from './native';

/** Where the addon is looked for, in this order. */
export function addonCandidates(): string[] {
  const root = path.resolve(__dirname, '..', '..');
  return [path.join(root, 'build', 'Release', 'kvasir.node')];
}

/** One attempt to load the addon, for errors and `kvasir doctor`. */
export interface LoadAttempt {
  readonly file: string;
  readonly error: string | null;
}

let loaded: { binding: NativeBinding; file: string } | null = null;

/**
 * Loads the addon; later calls return the same binding.
 * @throws KvasirError ERR_KVASIR_NO_BINARY listing every place that was tried.
 */
export function loadBinding(): NativeBinding {
  return loadAddon().binding;
}

export function loadAddon(): { binding: NativeBinding; file: string } {
  if (loaded) return loaded;
  const attempts: LoadAttempt[] = [];
  for (const file of addonCandidates()) {
    if (!fs.existsSync(file)) {
      attempts.push({ file, error: 'no such file' });
      continue;
    }
    try {
      loaded = { binding: require(file) as NativeBinding, file };
      return loaded;
    } catch (error) {
      attempts.push({ file, error: messageOf(error) });
    }
  }
  const tried = attempts.map((a) => `${a.file} (${a.error})`).join('; ');
  throw new KvasirError('ERR_KVASIR_NO_BINARY', `expected a native addon for ${process.platform}-${process.arch}, tried ${tried}. Build it with: npx kvasir build`);
}

/** What the addon threw, as a KvasirError with the same code. Errors made natively may belong to another realm, so instanceof does not do. */
export function wrapNativeError(error: unknown): KvasirError {
  if (error instanceof KvasirError) return error;
  const code = (error as { code?: unknown } | null)?.code;
  const known = typeof code === 'string' && code in ERRORS ? (code as ErrorCode) : 'ERR_KVASIR_NATIVE';
  return new KvasirError(known, messageOf(error), { cause: error });
}
