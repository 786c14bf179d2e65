import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import { loadAddon } from '../binding/load';
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
  readonly addon: { readonly file: string | null; readonly error: string | null; readonly build: Readonly<Record<string, unknown>> | null };
}

/** Prints what Kvasir finds on this machine. @returns 0, or 1 when the native addon cannot be loaded. */
export async function doctor(options: { json: boolean }, io: CliIo): Promise<number> {
  const report = examine();
  await write(io.stdout, options.json ? `${JSON.stringify(report)}\n` : describe(report));
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
  };
}

function examineAddon(): { found: DoctorReport['addon']; isa: { isa: string | null; bestIsa: string | null } } {
  try {
    const { binding, file } = loadAddon();
    const build = readJson(file.replace(/\.node$/, '.json'));
    return { found: { file, error: null, build }, isa: binding.cpuInfo() };
  } catch (error) {
    return { found: { file: null, error: messageOf(error), build: null }, isa: { isa: null, bestIsa: null } };
  }
}

function describe(report: DoctorReport): string {
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
  return rows.map(([name, text]) => `${name.padEnd(10)}${text}\n`).join('');
}

function buildLine(build: Readonly<Record<string, unknown>>): string {
  const isa = Array.isArray(build.isa) ? build.isa.join(', ') : 'unknown';
  const commit = typeof build.commit === 'string' ? `, commit ${build.commit.slice(0, 12)}` : '';
  return `version ${String(build.version)} with ${String(build.compiler)}, kernels for ${isa}${commit}`;
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
