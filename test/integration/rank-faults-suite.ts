/** A rank of two fails in every way: all end as they should, in time. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { DeviceType } from '../../lib/config/vllm';
import { sharedPath } from '../fixtures/shared';
import { program, rankCommand, RankedProgram, type Ended, type Launcher } from './ranks';

type How = 'kill' | 'stop' | 'exit' | 'abort';
export interface Fault {
  readonly rank: number;
  readonly phase: 'start' | 'prefill' | 'decode';
  readonly how: How;
}

const HOWS: readonly How[] = ['kill', 'stop', 'exit', 'abort'];
export const faults = (phases: readonly Fault['phase'][]): Fault[] => phases.flatMap((phase) => HOWS.flatMap((how) => [0, 1].map((rank) => ({ rank, phase, how }))));

/** Silence is noticed within 5 s; the rest is starting node and loading. */
const DEADLINE_MS = 25_000;

// Eager, since a rank fails inside of forward(), which graphs replace.
const options = { model: sharedPath('models/stories260K'), dtype: 'float32', numThreads: 1, tensorParallelSize: 2, numKvBlocks: 64, enforceEager: true };

function start(launcher: Launcher, device: DeviceType, fault: Fault): RankedProgram {
  return new RankedProgram(rankCommand(launcher, 2, [program('rank-fault.js'), JSON.stringify({ ...options, device })]), { FAULT: JSON.stringify(fault) });
}

/** Waits until a process of the program is stopped, and then until all others have ended by themselves. */
async function othersEnded(run: RankedProgram, ended: () => boolean): Promise<void> {
  let wasStopped = false;
  for (const deadline = Date.now() + DEADLINE_MS; Date.now() < deadline && !ended(); await sleep(50)) {
    const ranks = run.processes().filter(({ isNode }) => isNode);
    wasStopped ||= ranks.some(({ state }) => state === 'T');
    if (wasStopped && ranks.every(({ state }) => state === 'T')) return;
  }
}

/** Runs a program to its end. A stopped rank 0 cannot end, so that it is continued when the others have. */
async function endOf(launcher: Launcher, device: DeviceType, fault: Fault): Promise<Ended & { readonly left: number }> {
  const run = start(launcher, device, fault);
  let isOver = false;
  void run.ended.finally(() => (isOver = true));
  const timer = setTimeout(() => run.cleanUp(), DEADLINE_MS);
  try {
    if (fault.how === 'stop' && fault.rank === 0) {
      await othersEnded(run, () => isOver);
      expect(isOver || run.processes().filter(({ isNode }) => isNode).length <= 1).toBe(true);
      for (const { pid, state } of run.processes()) if (state === 'T') process.kill(pid, 'SIGCONT');
    }
    const end = await run.ended;
    await sleep(100);
    return { ...end, left: run.processes().length };
  } finally {
    clearTimeout(timer);
    run.cleanUp();
  }
}

function check(fault: Fault, end: Ended & { readonly left: number }): void {
  const what = `${JSON.stringify(fault)}: ${JSON.stringify(end)}`;
  expect(end.code === 0 ? what : 'not 0').toBe('not 0');
  expect(end.left > 0 ? what : 'nothing left').toBe('nothing left');
  expect(end.seconds > DEADLINE_MS / 1000 ? what : 'in time').toBe('in time');
  // Rank 0 is gone when it failed itself, unless it was stopped; else it has told every request.
  if (fault.rank === 0 && fault.how !== 'stop') return;
  const line = end.stdout.split('\n').find((text) => text.startsWith('{'));
  const report = line === undefined ? null : (JSON.parse(line) as Record<string, unknown>);
  if (report === null) return expect(what).toContain('mpirun'); // which ends every rank as soon as it sees one fail
  if (fault.phase === 'start') return expect(report).toEqual({ create: expect.stringMatching(/^ERR_KVASIR_(RANK|LAUNCH)$/) as unknown });
  const dead = 'ERR_KVASIR_ENGINE_DEAD';
  expect(report).toEqual({ requests: [dead, dead, dead, dead], later: dead, close: 'done' });
}

/** Has a rank fail and checks how everything ends. */
export async function rankFault(launcher: Launcher, device: DeviceType, fault: Fault): Promise<void> {
  check(fault, await endOf(launcher, device, fault));
}
