import * as fs from 'node:fs';
import { promisify } from 'node:util';

const openFd = promisify(fs.open);
const closeFd = promisify(fs.close);
const fstat = promisify(fs.fstat);
const readFd = promisify(fs.read);

/** Why {@link openRegularFile} refused a path. */
export type FileProblem = 'missing' | 'not-a-file' | 'unreadable';

/** Thrown by the functions of this file; the caller turns it into the KvasirError that fits its context. */
export class RegularFileError extends Error {
  constructor(
    readonly problem: FileProblem,
    message: string,
    options?: { cause?: unknown },
  ) {
    super(message, options);
    this.name = 'RegularFileError';
  }
}

/**
 * Opens `path` for reading if it is a regular file (symbolic links are followed). FIFOs and devices are refused without
 * blocking: the path is examined before it is opened, and O_NONBLOCK covers a path that is swapped in between.
 * The caller owns the descriptor. A raw descriptor instead of a FileHandle: it never closes when an object is collected.
 */
export async function openRegularFile(path: string): Promise<{ fd: number; size: number }> {
  const before = await attempt(path, () => fs.promises.stat(path));
  if (!before.isFile()) throw new RegularFileError('not-a-file', `${path} is not a regular file`);
  const flags = fs.constants.O_RDONLY | (fs.constants.O_NONBLOCK ?? 0);
  const fd = await attempt(path, () => openFd(path, flags));
  try {
    const stat = await fstat(fd);
    if (!stat.isFile()) throw new RegularFileError('not-a-file', `${path} is not a regular file`);
    return { fd, size: stat.size };
  } catch (error) {
    await closeFd(fd);
    throw error;
  }
}

/** Reads up to `length` bytes at `position`; the result is shorter when the file ends before. */
export async function readAt(fd: number, position: number, length: number): Promise<Buffer> {
  const buffer = Buffer.allocUnsafe(length);
  let done = 0;
  while (done < length) {
    const { bytesRead } = await readFd(fd, buffer, done, length - done, position + done);
    if (bytesRead === 0) break;
    done += bytesRead;
  }
  return buffer.subarray(0, done);
}

/** Closes a descriptor of {@link openRegularFile}. */
export async function closeFile(fd: number): Promise<void> {
  await closeFd(fd);
}

/** Reads a whole regular file of at most `maxBytes` bytes; null when it is larger. */
export async function readRegularFile(path: string, maxBytes: number): Promise<Buffer | null> {
  const { fd, size } = await openRegularFile(path);
  try {
    if (size > maxBytes) return null;
    return await attempt(path, () => readAt(fd, 0, size));
  } finally {
    await closeFd(fd);
  }
}

async function attempt<T>(path: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    const problem = code === 'ENOENT' || code === 'ENOTDIR' ? 'missing' : 'unreadable';
    const reason = problem === 'missing' ? 'does not exist' : `cannot be read (${code ?? String(error)})`;
    throw new RegularFileError(problem, `${path} ${reason}`, { cause: error });
  }
}
