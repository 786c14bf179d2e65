import { setTimeout as sleep } from 'node:timers/promises';
import * as path from 'node:path';
import { hasGloo, hasMpirun, program, rankCommand, RankedProgram, type Ended } from './ranks';

const ROOT = path.resolve(__dirname, '../..');
const MODEL = path.join(ROOT, 'examples/models/kvasir-tales-5m');
const CLI = path.join(ROOT, 'dist/cli/main.js');
const OPTIONS = { model: MODEL, device: 'cpu', numThreads: 1, tensorParallelSize: 2, numKvBlocks: 64 };
const LIMIT_MS = 30_000;

/** Waits for a program to print something, sends a signal to every one of its ranks at once, and resolves with its end. */
async function endAfter(run: RankedProgram, printed: string, signal: NodeJS.Signals): Promise<Ended & { readonly left: number }> {
  const timer = setTimeout(() => run.cleanUp(), LIMIT_MS);
  try {
    while (!run.stdout.includes(printed) && run.processes().length > 0) await sleep(20);
    for (const { pid, isNode } of run.processes()) if (isNode) process.kill(pid, signal);
    const end = await run.ended;
    await sleep(100);
    return { ...end, left: run.processes().length };
  } finally {
    clearTimeout(timer);
    run.cleanUp();
  }
}

describe.each([
  ['two ranks that rank 0 started', 'kvasir', hasGloo],
  ['two ranks under mpirun', 'mpirun', hasGloo && hasMpirun],
] as const)('SIGTERM to all of %s', (_title, launcher, available) => {
  const when = available ? it : it.skip;

  when('a program that finishes what it has begun can: the other rank waits for rank 0 to close', async () => {
    const run = new RankedProgram(rankCommand(launcher, 2, [program('rank-drain.js'), JSON.stringify(OPTIONS)]));
    const end = await endAfter(run, 'serving', 'SIGTERM');
    expect({ code: end.code, left: end.left, stderr: end.stderr }).toEqual({ code: 0, left: 0, stderr: '' });
    const { done, other } = JSON.parse(end.stdout.trim().split('\n').at(-1)!) as { done: number; other: number };
    expect(other).toBe(0);
    expect(done).toBeGreaterThanOrEqual(4);
  }, 2 * LIMIT_MS);
});

(hasGloo ? it : it.skip)('SIGTERM ends `kvasir generate` over two ranks with 143 and leaves no rank behind', async () => {
  const options = ['--tensor-parallel-size', '2', '--device', 'cpu', '--num-threads', '1', '--max-tokens', '900', '--ignore-eos', '--temperature', '0'];
  const run = new RankedProgram([process.execPath, [CLI, 'generate', MODEL, '--prompt', 'Once upon a time', ...options]]);
  const end = await endAfter(run, ',', 'SIGTERM');
  expect([end.code, end.left]).toEqual([143, 0]);
}, 2 * LIMIT_MS);
