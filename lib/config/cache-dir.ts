import * as path from 'node:path';

/** What turns the cache off. */
const NONE = 'none';

export interface CacheDirSystem {
  readonly env: Readonly<Record<string, string | undefined>>;
  /** As os.homedir(): throws where there is none. */
  readonly homedir: () => string;
}

/**
 * The folder for what is measured once and kept: `given`, or kvasir/ in the system's cache folder (XDG Base Directory
 * Specification: an absolute XDG_CACHE_HOME, else ~/.cache).
 * @returns an absolute path; null when `given` is "none" or there is no home directory: nothing is kept.
 */
export function resolveCacheDir(given: string | null, system: CacheDirSystem): string | null {
  if (given === NONE) return null;
  if (given !== null) return path.resolve(given);
  const { XDG_CACHE_HOME: base } = system.env;
  if (base !== undefined && path.isAbsolute(base)) return path.join(base, 'kvasir');
  try {
    const home = system.homedir();
    return path.isAbsolute(home) ? path.join(home, '.cache', 'kvasir') : null;
  } catch {
    return null; // a user without a home directory: the caller's meaning of null
  }
}
