import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import { loadAddon } from '../binding/load';
import type { NativeComm, NativeCuda } from '../binding/native';
import { cpuCount } from '../config/cpu-count';
import { messageOf } from '../utils/errors';
import { formatBytes, write, type CliIo } from './io';

/** What `kvasir doctor` found. Bytes are bytes; absent things are null. */
export interface DoctorReport {
  readonly kvasir: string;
  readonly node: string;
  readonly platform: string;
  readonly libc: string | null;
  readonly cpu: { readonly model: string; readonly cores: number; readonly threads: number; readonly isa: string | null; readonly bestIsa: string | null };
  readonly memory: { readonly totalBytes: number; readonly freeBytes: number; readonly limitBytes: number | null };
  readonly addon: {
    readonly file: string | null;
    readonly error: string | null;
    readonly build: Readonly<Record<string, unknown>> | null;
    /** Addons that come before it but could not be loaded. */
    readonly failed: readonly { readonly file: string; readonly error: string }[];
  };
  /** null without an addon. */
  readonly cuda: ReturnType<NativeCuda['cudaInfo']> | null;
  /** cuBLASLt, which multiplies matrices on a GPU where it is found; null without a device that could use it. */
  readonly gemm: ReturnType<NativeCuda['findCublasLt']> | null;
  /** What ranks of a tensor-parallel group talk by: Gloo between CPUs, NCCL between GPUs. null without an addon. */
  readonly comm: ReturnType<NativeComm['commInfo']> | null;
}

/** Prints what Kvasir finds on this machine. @returns 0, or 1 when the native addon cannot be loaded. */
export async function doctor(options: { json: boolean }, io: CliIo): Promise<number> {
  const report = examine();
  await write(io.stdout, options.json ? `${JSON.stringify(report)}\n` : describeReport(report));
  return report.addon.error === null ? 0 : 1;
}

function examine(): DoctorReport {
  const addon = examineAddon();
  const limit = process.constrainedMemory();
  return {
    kvasir: (readJson(path.join(__dirname, '..', '..', 'package.json'))?.version as string | undefined) ?? 'unknown',
    node: process.versions.node,
    platform: `${process.platform}-${process.arch} ${os.release()}`,
    libc: libcVersion(),
    cpu: {
      model: os.cpus()[0]?.model.trim() ?? 'unknown',
      cores: os.cpus().length,
      threads: cpuCount({ availableParallelism: () => os.availableParallelism(), readText }),
      ...addon.isa,
    },
    // Without a limit the system reports 0 or a number beyond any memory.
    memory: { totalBytes: os.totalmem(), freeBytes: os.freemem(), limitBytes: limit > 0 && limit < os.totalmem() ? limit : null },
    addon: addon.found,
    cuda: addon.cuda,
    gemm: addon.gemm,
    comm: addon.comm,
  };
}

interface AddonFindings {
  readonly found: DoctorReport['addon'];
  readonly isa: { readonly isa: string | null; readonly bestIsa: string | null };
  readonly cuda: DoctorReport['cuda'];
  readonly gemm: DoctorReport['gemm'];
  readonly comm: DoctorReport['comm'];
}

function examineAddon(): AddonFindings {
  try {
    const { binding, file, skipped } = loadAddon();
    const build = readJson(file.replace(/\.node$/, '.json'));
    const failed = skipped.filter((attempt) => fs.existsSync(attempt.file));
    const cuda = binding.cudaInfo();
    const gemm = cuda.deviceCount > 0 ? binding.findCublasLt() : null;
    return { found: { file, error: null, build, failed }, isa: binding.cpuInfo(), cuda, gemm, comm: binding.commInfo() };
  } catch (error) {
    const found = { file: null, error: messageOf(error), build: null, failed: [] };
    return { found, isa: { isa: null, bestIsa: null }, cuda: null, gemm: null, comm: null };
  }
}

/** The report for people: a line for each finding. */
export function describeReport(report: DoctorReport): string {
  const { cpu, memory, addon } = report;
  const rows: [string, string][] = [
    ['kvasir', report.kvasir],
    ['node', report.node],
    ['platform', report.libc === null ? report.platform : `${report.platform}, ${report.libc}`],
    ['cpu', `${cpu.model}, ${cpu.cores} cores`],
    ['threads', `${cpu.threads} (cores this process may use)`],
    ['kernels', cpu.isa === null ? 'unknown without the addon' : cpu.isa === cpu.bestIsa ? cpu.isa : `${cpu.isa} (the cpu could run ${cpu.bestIsa})`],
    ['memory', `${formatBytes(memory.totalBytes)}, ${formatBytes(memory.freeBytes)} free${memory.limitBytes === null ? '' : `, limited to ${formatBytes(memory.limitBytes)}`}`],
    ['addon', addon.file ?? `not loaded: ${addon.error}`],
  ];
  if (addon.build !== null) rows.push(['built', buildLine(addon.build)]);
  for (const { file, error } of addon.failed) rows.push(['not used', `${file}: ${error}`]);
  if (report.cuda !== null) rows.push(...cudaLines(report.cuda, addon.build?.archs).map((line): [string, string] => ['cuda', line]));
  if (report.cuda !== null) rows.push(...gemmLines(report.gemm).map((line): [string, string] => ['gemm', line]));
  if (report.comm !== null) {
    rows.push(...lines(report.comm.gloo.report).map((line): [string, string] => ['gloo', line]));
    rows.push(...ncclLines(report.comm.nccl, report.cuda).map((line): [string, string] => ['nccl', line]));
  }
  return rows.map(([name, text]) => `${name.padEnd(10)}${text}\n`).join('');
}

function buildLine(build: Readonly<Record<string, unknown>>): string {
  const isa = Array.isArray(build.isa) ? build.isa.join(', ') : 'unknown';
  const cuda = typeof build.cuda === 'string' ? `, CUDA ${build.cuda} for ${Array.isArray(build.archs) ? build.archs.join(', ') : 'unknown'}` : '';
  const commit = typeof build.commit === 'string' ? `, commit ${build.commit.slice(0, 12)}` : '';
  return `version ${String(build.version)} with ${String(build.compiler)}, kernels for ${isa}${cuda}${commit}`;
}

/** Whether code for a CUDA architecture, by CMake's name ("80-real", "90a"), runs on a device of this compute capability ("9.0"). */
export function archFits(arch: string, computeCapability: string): boolean {
  const [, number, special, kind] = /^(\d+)([af]?)(-\w+)?$/.exec(arch) ?? [];
  if (number === undefined) return false;
  const device = Number(computeCapability.replace('.', ''));
  if (special !== '') return Number(number) === device;
  if (kind !== '-real') return Number(number) <= device; // compiled by the driver
  return number.slice(0, -1) === computeCapability.split('.')[0] && Number(number) <= device;
}

/** A line for each device, or one that says why there is none. `archs`: what the build metadata names. */
function cudaLines(cuda: NonNullable<DoctorReport['cuda']>, archs: unknown): string[] {
  if (!cuda.built) return ['not in this build of the addon'];
  if (cuda.deviceCount === 0) return [`no device can be used: ${cuda.problem}`];
  const runsOn = (capability: string): boolean => !Array.isArray(archs) || archs.some((arch) => archFits(String(arch), capability));
  return cuda.devices.map((d) => {
    const line = `${d.name}, ${formatBytes(d.totalBytes)}, compute capability ${d.computeCapability}, ${d.multiprocessors} multiprocessors`;
    return runsOn(d.computeCapability) ? line : `${line}; this build has no kernels for it, see --archs of the CUDA build`;
  });
}

/** What multiplies matrices on the GPU; where cuBLASLt was looked for, when it was not found. */
function gemmLines(gemm: DoctorReport['gemm']): string[] {
  if (gemm === null) return ['cuBLASLt is not looked for without a CUDA device'];
  return gemm.found ? lines(gemm.report) : [...lines(gemm.report), "without it Kvasir's own kernels multiply matrices"];
}

/** What ranks on GPUs talk by; where NCCL was looked for, when it was not found. */
function ncclLines(nccl: NonNullable<DoctorReport['comm']>['nccl'], cuda: DoctorReport['cuda']): string[] {
  if (!nccl.found && (cuda?.deviceCount ?? 0) === 0) return ['NCCL is of no use without a CUDA device'];
  return nccl.found ? lines(nccl.report) : [...lines(nccl.report), 'without it a model runs on one GPU only'];
}

function lines(text: string): string[] {
  return text.trimEnd().split('\n');
}

/** For example "glibc 2.36"; null where the system does not say. */
function libcVersion(): string | null {
  const { header } = process.report.getReport() as unknown as { header: { glibcVersionRuntime?: string } };
  return header.glibcVersionRuntime === undefined ? null : `glibc ${header.glibcVersionRuntime}`;
}

function readText(file: string): string | null {
  try {
    return fs.readFileSync(file, 'utf8');
  } catch {
    return null; // not on every system; the caller's meaning of null
  }
}

function readJson(file: string): Record<string, unknown> | null {
  const text = readText(file);
  return text === null ? null : (JSON.parse(text) as Record<string, unknown>);
}
