import * as path from 'node:path';
import { resolveCacheDir } from '../../lib/config/cache-dir';

const homedir = (): string => '/h';

describe('resolveCacheDir', () => {
  it('takes what is given, made absolute', () => {
    expect(resolveCacheDir('/c', { env: { XDG_CACHE_HOME: '/x' }, homedir })).toBe('/c');
    expect(resolveCacheDir('c', { env: {}, homedir })).toBe(path.resolve('c'));
  });

  it('derives it from XDG_CACHE_HOME, which counts only when absolute, or the home directory', () => {
    expect(resolveCacheDir(null, { env: { XDG_CACHE_HOME: '/x' }, homedir })).toBe(path.join('/x', 'kvasir'));
    expect(resolveCacheDir(null, { env: { XDG_CACHE_HOME: 'x' }, homedir })).toBe(path.join('/h', '.cache', 'kvasir'));
    expect(resolveCacheDir(null, { env: { XDG_CACHE_HOME: '' }, homedir })).toBe(path.join('/h', '.cache', 'kvasir'));
  });

  it('is null when turned off, or without a home directory', () => {
    expect(resolveCacheDir('none', { env: { XDG_CACHE_HOME: '/x' }, homedir })).toBeNull();
    expect(resolveCacheDir(null, { env: {}, homedir: () => '' })).toBeNull();
    const homeless = (): string => {
      throw new Error('no home');
    };
    expect(resolveCacheDir(null, { env: {}, homedir: homeless })).toBeNull();
  });
});
