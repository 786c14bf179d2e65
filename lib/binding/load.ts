import * as fs from 'node:fs';
import * as path from 'node:path';
import { ERRORS, KvasirError, messageOf, type ErrorCode } from '../utils/errors';
import type { NativeBinding } from './native';

/** What NVIDIA's driver (or WSL's stand-in for it) leaves in the file system while it runs. */
const DRIVER_FILES = ['/dev/nvidiactl', '/proc/driver/nvidia/version', '/dev/dxg'];

/**
 * Where the addon is looked for, in this order. With an NVIDIA driver the build with the CUDA backend comes first; without one the
 * plain build, which is the one kept up to date there.
 */
export function addonCandidates(hasDriver = DRIVER_FILES.some((file) => fs.existsSync(file))): string[] {
  const build = path.resolve(__dirname, '..', '..', 'build');
  const plain = path.join(build, 'Release', 'kvasir.node');
  const cuda = path.join(build, 'cuda', 'Release', 'kvasir.node');
  return hasDriver ? [cuda, plain] : [plain, cuda];
}

/** A candidate that was not used, for errors and `kvasir doctor`. */
export interface LoadAttempt {
  readonly file: string;
  readonly error: string;
}

/** The addon in use, and the candidates before it that were not there or did not load. */
export interface LoadedAddon {
  readonly binding: NativeBinding;
  readonly file: string;
  readonly skipped: readonly LoadAttempt[];
}

let loaded: LoadedAddon | null = null;

/**
 * Loads the addon; later calls return the same binding.
 * @throws KvasirError ERR_KVASIR_NO_BINARY listing every place that was tried.
 */
export function loadBinding(): NativeBinding {
  return loadAddon().binding;
}

export function loadAddon(): LoadedAddon {
  if (loaded) return loaded;
  const attempts: LoadAttempt[] = [];
  for (const file of addonCandidates()) {
    if (!fs.existsSync(file)) {
      attempts.push({ file, error: 'no such file' });
      continue;
    }
    try {
      loaded = { binding: require(file) as NativeBinding, file, skipped: attempts };
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
