import { CommanderError } from 'commander';
import { KvasirError, messageOf } from '../utils/errors';
import { Interrupted } from './interrupt';
import type { CliIo } from './io';
import { buildProgram } from './program';

/** Exit codes of the command line. */
export const EXIT = { ok: 0, error: 1, usage: 2 } as const;

/**
 * Runs one command line (without `node` and the script's name).
 * @returns the exit code: 0, 1 for an error, 2 for a wrong command line, 128 + signal number when interrupted. Never rejects.
 */
export async function runCli(argv: readonly string[], io: CliIo): Promise<number> {
  const result = { code: EXIT.ok as number };
  const program = buildProgram(io, result);
  try {
    await program.parseAsync([...argv], { from: 'user' });
    return result.code;
  } catch (error) {
    return exitCodeOf(error, io, argv.includes('--verbose'));
  }
}

function exitCodeOf(error: unknown, io: CliIo, verbose: boolean): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.ok : EXIT.usage; // commander has printed it
  if (error instanceof Interrupted) return error.exitCode;
  io.stderr.write(`error: ${describe(error)}\n`);
  if (verbose && error instanceof Error) io.stderr.write(`${error.stack ?? ''}\n`);
  return EXIT.error;
}

/** One line: the message and, where there is one, the code. */
function describe(error: unknown): string {
  const message = messageOf(error).replace(/\s*\n\s*/g, ' ');
  const code = error instanceof KvasirError ? error.code : (error as { code?: unknown } | null)?.code;
  return typeof code === 'string' ? `${message} (${code})` : message;
}
