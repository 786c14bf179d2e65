#!/usr/bin/env node
import { runCli } from './run';

// A reader that went away (`kvasir generate ... | head -1`) is no error of ours.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  process.exit(error.code === 'EPIPE' ? 0 : 1);
});

void runCli(process.argv.slice(2), process).then((code) => {
  process.exitCode = code;
});
