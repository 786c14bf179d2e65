import { spawn } from 'node:child_process';
import * as path from 'node:path';
import type { EngineArgs } from '../../lib/index';
import { argsFor, TALES } from './workload';

const PROGRAM = path.join(__dirname, 'programs', 'device-fault.js');

interface End {
  readonly code: string;
  readonly cause?: string;
  readonly message: string;
}

interface Report {
  readonly running: readonly (End | 'done')[];
  readonly later: readonly (End | 'done')[];
  readonly close: readonly (End | 'done')[];
  readonly closed: readonly (End | 'done')[];
  readonly live: { count: number; bytes: number };
  readonly create?: End | 'done';
}

function run(className: string, args: Partial<EngineArgs>): Promise<{ code: number | null; stdout: string; stderr: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [PROGRAM, className, JSON.stringify(argsFor(TALES, args))], { timeout: 45_000, killSignal: 'SIGKILL' });
    let [stdout, stderr] = ['', ''];
    child.stdout.on('data', (data: Buffer) => (stdout += data.toString()));
    child.stderr.on('data', (data: Buffer) => (stderr += data.toString()));
    child.on('error', reject);
    child.on('close', (code) => resolve({ code, stdout, stderr }));
  });
}

const codes = (ends: readonly (End | 'done')[]): string[] => ends.map((end) => (end === 'done' ? end : end.code));
const repeated = (code: string, count: number): string[] => new Array<string>(count).fill(code);

/** Registers the tests of a device that fails while requests run: every request hears of it, and the program goes on. */
export function deviceFaultSuite(args: Partial<EngineArgs>): void {
  test.each(['LLM', 'AsyncLLM'] as const)('%s: requests and later calls fail with ERR_KVASIR_ENGINE_DEAD, close() works, the program ends', async (className) => {
    for (const options of [{ asyncScheduling: false }, { asyncScheduling: true }]) {
      const { code, stdout, stderr } = await run(className, { maxNumSeqs: 8, ...args, ...options });
      expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
      const report = JSON.parse(stdout) as Report;
      expect(codes(report.running)).toEqual(repeated('ERR_KVASIR_ENGINE_DEAD', className === 'LLM' ? 7 : 6));
      expect((report.running[0] as End).message).toMatch(/this process can use the device no more: CUDA error cudaErrorIllegalAddress/);
      expect(codes(report.later)).toEqual(repeated('ERR_KVASIR_ENGINE_DEAD', 3));
      expect(report.close).toEqual(['done', 'done']);
      expect(codes(report.closed)).toEqual(repeated('ERR_KVASIR_CLOSED', 3));
      expect(report.live).toEqual({ count: 0, bytes: 0 });
      if (className === 'AsyncLLM') continue; // causes do not cross threads
      expect(report.running.map((end) => (end as End).cause)).toEqual(repeated('ERR_KVASIR_DEVICE', 7));
      // Whichever call of the runtime is the first to refuse.
      expect(report.create).toMatchObject({ code: expect.stringMatching(/^ERR_KVASIR_(DEVICE|UNSUPPORTED)$/), message: expect.stringMatching(/illegal/i) });
    }
  }, 120_000);
}
