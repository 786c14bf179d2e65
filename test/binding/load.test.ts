import * as path from 'node:path';
import { addonCandidates, loadAddon } from '../../lib/binding/load';

const root = path.resolve(__dirname, '../..');
const plain = path.join(root, 'build/Release/kvasir.node');
const cuda = path.join(root, 'build/cuda/Release/kvasir.node');

describe('the addon', () => {
  test('is the CUDA build first where a driver is, and the plain build first elsewhere', () => {
    expect(addonCandidates(true)).toEqual([cuda, plain]);
    expect(addonCandidates(false)).toEqual([plain, cuda]);
  });

  test('is loaded once, and what comes before it is recorded', () => {
    const addon = loadAddon();
    expect(loadAddon()).toBe(addon);
    expect(addonCandidates()[addon.skipped.length]).toBe(addon.file);
    for (const { error } of addon.skipped) expect(error).not.toBe('');
  });

  test('says what it knows of CUDA', () => {
    const { built, deviceCount, problem, devices } = loadAddon().binding.cudaInfo();
    expect(typeof built).toBe('boolean');
    expect(devices).toHaveLength(deviceCount);
    expect(problem === '').toBe(deviceCount > 0);
  });
});
