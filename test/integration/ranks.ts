import { spawn, spawnSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import * as fs from 'node:fs';
import * as path from 'node:path';

export const program = (name: string): string => path.join(__dirname, 'programs', name);

/** Whether mpirun (Open MPI) is there. */
export const hasMpirun = spawnSync('mpirun', ['--version'], { encoding: 'utf8' }).stdout?.includes('Open MPI') ?? false;

/** Whether this build has Gloo, without which ranks on the CPU cannot talk. */
export const hasGloo = fs.existsSync(path.join(__dirname, '../../build/Release/kvasir-gloo.so'));

/** Who starts the ranks: rank 0 itself, or mpirun. */
export type Launcher = 'kvasir' | 'mpirun';

/** The command that runs node once per rank: by itself, rank 0 starting the others, or under mpirun. */
export function rankCommand(launcher: Launcher, size: number, args: readonly string[]): readonly [string, readonly string[]] {
  if (launcher === 'kvasir') return [process.execPath, args];
  return ['mpirun', ['--allow-run-as-root', '--oversubscribe', '--bind-to', 'none', '-np', String(size), process.execPath, ...args]];
}

export interface Ended {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
  readonly seconds: number;
}

/** A program and everything that it starts, found by a variable in their environment. */
export class RankedProgram {
  readonly ended: Promise<Ended>;
  private readonly mark = randomUUID();
  private readonly text = { stdout: '', stderr: '' };
  private readonly pid: number;

  constructor([command, args]: readonly [string, readonly string[]], env: Readonly<Record<string, string>> = {}) {
    const started = Date.now();
    const child = spawn(command, args, { env: { ...process.env, ...env, RANKED_PROGRAM: this.mark }, stdio: ['ignore', 'pipe', 'pipe'] });
    this.pid = child.pid ?? 0;
    const { text } = this;
    child.stdout.on('data', (chunk: Buffer) => void (text.stdout += chunk.toString()));
    child.stderr.on('data', (chunk: Buffer) => void (text.stderr += chunk.toString()));
    this.ended = new Promise((resolve, reject) => {
      child.on('error', reject);
      child.on('close', (code, signal) => resolve({ code, signal, ...text, seconds: (Date.now() - started) / 1000 }));
    });
  }

  /** What it has printed so far. */
  get stdout(): string {
    return this.text.stdout;
  }

  /** Processes of the program that are alive, with their states (T: stopped). */
  processes(): { readonly pid: number; readonly state: string; readonly isNode: boolean }[] {
    return fs.readdirSync('/proc').filter((name) => /^\d+$/.test(name)).flatMap((name) => {
      try {
        if (!fs.readFileSync(`/proc/${name}/environ`, 'latin1').includes(this.mark)) return [];
        const [, command, state] = /\((.*)\) (\w)/.exec(fs.readFileSync(`/proc/${name}/stat`, 'latin1'))!;
        return state === 'Z' ? [] : [{ pid: Number(name), state: state!, isNode: command === 'node' }];
      } catch {
        return []; // ended meanwhile, or somebody else's
      }
    });
  }

  signal(signal: NodeJS.Signals): void {
    process.kill(this.pid, signal);
  }

  /** Ends everything; what a failed test leaves must not disturb the next. */
  cleanUp(): void {
    for (const { pid } of this.processes()) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // ended meanwhile
      }
    }
  }
}
