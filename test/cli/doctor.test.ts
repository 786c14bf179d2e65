import { runCli } from '../../lib/cli/run';
import type { DoctorReport } from '../../lib/cli/doctor';
import { captureIo } from './capture';

describe('kvasir doctor', () => {
  test('--json reports machine and addon, and fails exactly when there is no addon', async () => {
    const io = captureIo();
    const code = await runCli(['doctor', '--json'], io);
    const report = JSON.parse(io.out()) as DoctorReport;
    expect(report.node).toBe(process.versions.node);
    expect(report.cpu.threads).toBeGreaterThan(0);
    expect(report.memory.totalBytes).toBeGreaterThan(report.memory.freeBytes);
    expect(code).toBe(report.addon.file === null ? 1 : 0);
    expect((report.addon.file === null) === (report.addon.error === null)).toBe(false);
  });

  test('prints a line for each finding', async () => {
    const io = captureIo();
    await runCli(['doctor'], io);
    for (const name of ['kvasir', 'node', 'platform', 'cpu', 'threads', 'kernels', 'memory', 'addon']) {
      expect(io.out()).toMatch(new RegExp(`^${name} +\\S`, 'm'));
    }
  });
});
