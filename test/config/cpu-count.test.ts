import { cpuCount } from '../../lib/config/cpu-count';

const count = (cores: number, files: Record<string, string> = {}) =>
  cpuCount({ availableParallelism: () => cores, readText: (path) => files[path] ?? null });

const V2 = { '/proc/self/cgroup': '0::/\n' };
const V1 = { '/proc/self/cgroup': '4:memory:/x\n3:cpu,cpuacct:/docker/abc\n' };

describe('cpuCount', () => {
  it('is the affinity mask without cgroups', () => {
    expect(count(8)).toBe(8);
    expect(count(0)).toBe(1);
  });

  it('respects the quota of cgroup v2, rounded down to at least 1', () => {
    expect(count(8, { ...V2, '/sys/fs/cgroup/cpu.max': '400000 100000\n' })).toBe(4);
    expect(count(8, { ...V2, '/sys/fs/cgroup/cpu.max': '250000 100000\n' })).toBe(2);
    expect(count(8, { ...V2, '/sys/fs/cgroup/cpu.max': '50000 100000\n' })).toBe(1);
  });

  it('never exceeds the affinity mask', () => {
    expect(count(2, { ...V2, '/sys/fs/cgroup/cpu.max': '1600000 100000' })).toBe(2);
  });

  it('has no limit under "max" and takes garbled files for none', () => {
    for (const text of ['max 100000', '', 'x y', '100000', '100000 0', '0 100000', '-1 100000']) {
      expect(count(8, { ...V2, '/sys/fs/cgroup/cpu.max': text })).toBe(8);
    }
    expect(count(8, { '/proc/self/cgroup': 'garbage\n\0' })).toBe(8);
  });

  it('takes the lowest quota of the cgroup and those above it', () => {
    const own = { '/proc/self/cgroup': '0::/a/b\n' };
    expect(count(8, { ...own, '/sys/fs/cgroup/a/b/cpu.max': 'max 100000', '/sys/fs/cgroup/a/cpu.max': '300000 100000' })).toBe(3);
    expect(count(8, { ...own, '/sys/fs/cgroup/a/b/cpu.max': '200000 100000', '/sys/fs/cgroup/a/cpu.max': '300000 100000' })).toBe(2);
  });

  it('respects the quota of cgroup v1 under either mount name', () => {
    for (const mount of ['cpu', 'cpu,cpuacct']) {
      const dir = `/sys/fs/cgroup/${mount}/docker/abc`;
      expect(count(8, { ...V1, [`${dir}/cpu.cfs_quota_us`]: '300000\n', [`${dir}/cpu.cfs_period_us`]: '100000\n' })).toBe(3);
      expect(count(8, { ...V1, [`${dir}/cpu.cfs_quota_us`]: '-1\n', [`${dir}/cpu.cfs_period_us`]: '100000\n' })).toBe(8);
    }
  });

  it('finds the quota at the root when the path is that of the host', () => {
    const root = '/sys/fs/cgroup/cpu';
    expect(count(8, { ...V1, [`${root}/cpu.cfs_quota_us`]: '200000', [`${root}/cpu.cfs_period_us`]: '100000' })).toBe(2);
  });
});
