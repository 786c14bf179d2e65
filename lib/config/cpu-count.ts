/** What {@link cpuCount} asks of the machine; injected so that tests need no cgroup. */
export interface CpuProbe {
  /** Cores in the affinity mask of the process (os.availableParallelism). */
  availableParallelism(): number;
  /** Text of a file, or null when it does not exist or cannot be read. */
  readText(path: string): string | null;
}

const CGROUP_ROOT = '/sys/fs/cgroup';

/**
 * Cores that this process may really use: the affinity mask, limited by the CPU quota of its cgroup (v2 cpu.max, v1
 * cpu.cfs_quota_us) and of every cgroup above it. A fractional quota is rounded down, to at least 1: threads beyond the
 * quota only get the whole process throttled.
 */
export function cpuCount(probe: CpuProbe): number {
  const cores = Math.max(1, Math.floor(probe.availableParallelism()));
  const membership = probe.readText('/proc/self/cgroup');
  if (membership === null) return cores;
  let quota = Infinity;
  for (const line of membership.split('\n')) {
    const match = /^\d+:([^:]*):(\/.*)$/.exec(line);
    if (match === null) continue;
    const [, controllers = '', path = '/'] = match;
    if (controllers === '') {
      quota = Math.min(quota, lowestQuota(path, (dir) => quotaV2(probe, `${CGROUP_ROOT}${dir}`)));
    } else if (controllers.split(',').includes('cpu')) {
      for (const mount of new Set(['cpu', controllers])) {
        quota = Math.min(quota, lowestQuota(path, (dir) => quotaV1(probe, `${CGROUP_ROOT}/${mount}${dir}`)));
      }
    }
  }
  return Math.max(1, Math.min(cores, Math.floor(quota)));
}

/**
 * The lowest quota of `path` and its ancestors, in cores. Inside a container the path may be the host's, which does not
 * exist here; the root that every walk ends at is then the container's own cgroup.
 */
function lowestQuota(path: string, quotaOf: (dir: string) => number): number {
  let lowest = Infinity;
  const parts = path.split('/').filter((part) => part !== '' && part !== '..');
  for (let depth = parts.length; depth >= 0; depth -= 1) {
    const dir = depth === 0 ? '' : `/${parts.slice(0, depth).join('/')}`;
    lowest = Math.min(lowest, quotaOf(dir));
  }
  return lowest;
}

/** cpu.max: "<quota|max> <period>", microseconds. */
function quotaV2(probe: CpuProbe, dir: string): number {
  const [quota, period] = (probe.readText(`${dir}/cpu.max`) ?? '').trim().split(/\s+/);
  return ratio(quota, period);
}

function quotaV1(probe: CpuProbe, dir: string): number {
  const quota = probe.readText(`${dir}/cpu.cfs_quota_us`);
  const period = probe.readText(`${dir}/cpu.cfs_period_us`);
  return ratio(quota?.trim(), period?.trim());
}

/** Quota / period; Infinity for "max", -1, or anything that is not two positive integers. */
function ratio(quota: string | undefined, period: string | undefined): number {
  if (quota === undefined || period === undefined || !/^\d+$/.test(quota) || !/^\d+$/.test(period)) return Infinity;
  const cores = Number(quota) / Number(period);
  return Number.isFinite(cores) && cores > 0 ? cores : Infinity;
}
