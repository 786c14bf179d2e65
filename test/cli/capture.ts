import { PassThrough, Readable } from 'node:stream';
import type { CliIo } from '../../lib/cli/io';

/** Streams of a test: what was written can be read as text. */
export interface CapturedIo extends CliIo {
  out(): string;
  err(): string;
}

export function captureIo(input = ''): CapturedIo {
  const stdout = new PassThrough();
  const stderr = new PassThrough();
  const chunks = { out: '', err: '' };
  stdout.on('data', (chunk) => (chunks.out += String(chunk)));
  stderr.on('data', (chunk) => (chunks.err += String(chunk)));
  return { stdin: Readable.from([input]), stdout, stderr, out: () => chunks.out, err: () => chunks.err };
}
