import { runCli } from '../../lib/cli/run';
import { archFits, describeReport, type DoctorReport } from '../../lib/cli/doctor';
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

  const examine = async (): Promise<DoctorReport> => {
    const io = captureIo();
    await runCli(['doctor', '--json'], io);
    return JSON.parse(io.out()) as DoctorReport;
  };
  const rows = (report: DoctorReport, name: string): string[] => describeReport(report).split('\n').filter((line) => line.startsWith(name));
  const H100 = {
    built: true, deviceCount: 1, problem: '',
    devices: [{ name: 'NVIDIA H100', computeCapability: '9.0', totalBytes: 80 * 2 ** 30, multiprocessors: 132 }],
  };

  test('with a GPU names the cuBLASLt in use', async () => {
    const report = { ...(await examine()), cuda: H100, gemm: { found: true, report: 'cuBLASLt 13.1.0 at /l/libcublasLt.so.13' } };
    expect(rows(report, 'cuda')).toEqual(['cuda      NVIDIA H100, 80 GiB, compute capability 9.0, 132 multiprocessors']);
    expect(rows(report, 'gemm')).toEqual(['gemm      cuBLASLt 13.1.0 at /l/libcublasLt.so.13']);
  });

  test('with a GPU and no cuBLASLt says where it was looked for', async () => {
    const gemm = { found: false, report: 'cuBLASLt was not found; looked in 3 folders:\n  libcublasLt.so.13: no such file\n' };
    expect(rows({ ...(await examine()), cuda: H100, gemm }, 'gemm')).toEqual([
      'gemm      cuBLASLt was not found; looked in 3 folders:',
      'gemm        libcublasLt.so.13: no such file',
      "gemm      without it Kvasir's own kernels multiply matrices",
    ]);
  });

  const commOf = (found: boolean, nccl: string): DoctorReport['comm'] => ({ gloo: { found: true, report: 'Gloo at /l/kvasir-gloo.so' }, nccl: { found, report: nccl } });

  test('names what ranks talk by', async () => {
    const report = { ...(await examine()), cuda: H100, comm: commOf(true, 'NCCL 2.28.9 at /l/libnccl.so.2') };
    expect(rows(report, 'gloo')).toEqual(['gloo      Gloo at /l/kvasir-gloo.so']);
    expect(rows(report, 'nccl')).toEqual(['nccl      NCCL 2.28.9 at /l/libnccl.so.2']);
  });

  test('with a GPU and no NCCL says where it was looked for; without a GPU it does not matter', async () => {
    const comm = commOf(false, 'NCCL was not found; looked in 3 folders:\n  libnccl.so.2: no such file\n');
    expect(rows({ ...(await examine()), cuda: H100, comm }, 'nccl')).toEqual([
      'nccl      NCCL was not found; looked in 3 folders:',
      'nccl        libnccl.so.2: no such file',
      'nccl      without it a model runs on one GPU only',
    ]);
    const none = { built: true, deviceCount: 0, problem: 'no driver', devices: [] };
    expect(rows({ ...(await examine()), cuda: none, comm }, 'nccl')).toEqual(['nccl      NCCL is of no use without a CUDA device']);
  });

  test('says when the build has no kernels for a GPU', async () => {
    const report = await examine();
    const built = (archs: string[]): string =>
      rows({ ...report, cuda: H100, addon: { ...report.addon, build: { ...report.addon.build, archs } } }, 'cuda').join();
    expect(built(['80-real', '89-real'])).toContain('this build has no kernels for it');
    expect(built(['80-real', '90a-real'])).not.toContain('no kernels');
  });

  test.each([
    ['90a-real', '9.0', true], ['90a-real', '10.0', false], ['90a-real', '8.9', false], ['80-real', '8.9', true], ['89-real', '8.6', false],
    ['80-real', '9.0', false], ['80', '9.0', true], ['80-virtual', '12.0', true], ['120-real', '12.1', true], ['90a', '10.0', false], ['?', '9.0', false],
  ])('code for %s on a device of compute capability %s: %s', (arch, capability, fits) => {
    expect(archFits(arch, capability)).toBe(fits);
  });

  test('without a GPU has one line for cuBLASLt', async () => {
    const none = { built: true, deviceCount: 0, problem: 'no driver', devices: [] };
    const report = { ...(await examine()), cuda: none, gemm: null };
    expect(rows(report, 'cuda')).toEqual(['cuda      no device can be used: no driver']);
    expect(rows(report, 'gemm')).toEqual(['gemm      cuBLASLt is not looked for without a CUDA device']);
  });

  test('looks for cuBLASLt exactly when there is a device', async () => {
    const report = await examine();
    expect(report.gemm !== null).toBe((report.cuda?.deviceCount ?? 0) > 0);
  });

  test('prints a line for each finding', async () => {
    const io = captureIo();
    await runCli(['doctor'], io);
    for (const name of ['kvasir', 'node', 'platform', 'cpu', 'threads', 'kernels', 'memory', 'addon']) {
      expect(io.out()).toMatch(new RegExp(`^${name} +\\S`, 'm'));
    }
  });
});
