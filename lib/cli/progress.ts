import type { CliIo } from './io';

/** Shows how far something is, on stderr. */
export interface Progress {
  /** `loaded` of `total` of a stage; a new stage ends the one before. */
  update(stage: string, loaded: number, total: number, note?: string): void;
  stop(): void;
}

/** Elsewhere than on a terminal, a stage that takes long says so this often. */
const PLAIN_INTERVAL_MS = 5000;

/** A bar on a terminal, plain lines elsewhere. */
export function createProgress(io: CliIo): Progress {
  return io.stderr.isTTY ? barProgress(io) : plainProgress(io);
}

function plainProgress(io: CliIo): Progress {
  let lastTime = Date.now();
  return {
    update(stage, loaded, total, note = '') {
      if (loaded >= total || Date.now() - lastTime < PLAIN_INTERVAL_MS) return;
      lastTime = Date.now();
      io.stderr.write(`${stage}: ${Math.floor((100 * loaded) / total)}%${note === '' ? '' : `, ${note}`}\n`);
    },
    stop() {},
  };
}

function barProgress(io: CliIo): Progress {
  // Loaded here: neither `--help` nor a pipe needs it.
  const { SingleBar, Presets } = require('cli-progress') as typeof import('cli-progress');
  let bar: InstanceType<typeof SingleBar> | null = null;
  let current = '';
  const stop = (): void => {
    bar?.stop();
    bar = null;
  };
  return {
    update(stage, loaded, total, note = '') {
      if (bar === null || stage !== current) {
        stop();
        current = stage;
        bar = new SingleBar(
          { format: '{stage} {bar} {percentage}% {note}', stream: io.stderr as NodeJS.WritableStream, clearOnComplete: true, hideCursor: true },
          Presets.shades_classic,
        );
        bar.start(total, loaded, { stage, note });
        return;
      }
      bar.setTotal(total);
      bar.update(loaded, { stage, note });
    },
    stop,
  };
}
