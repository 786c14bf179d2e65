import { Attention } from '../../lib/layers/attention';
import { Device, liveStorages } from '../../lib/tensor/device';
import { tensorTable } from '../../lib/tensor/table';
import { blocksOf, KvCache, requestedBytes } from '../../lib/worker/kv-cache';
import { kvCacheGroups } from '../../lib/worker/kv-cache-groups';
import { expectCode } from '../fixtures/expect-error';
import { makeVllmConfig, type VllmConfigParts } from '../fixtures/vllm-config';

const BYTES = 2 * 2 * 16 * 4 * 4; // of a block for one layer of 2 heads of 4 float32

/** A model with a layer of each of these windows. */
function configOf(windows: readonly (number | null)[], parts: VllmConfigParts = {}) {
  const config = makeVllmConfig({ ...parts, cache: { numBlocks: 5, ...parts.cache } });
  const layers = windows.map((window, i) => new Attention(config, { numHeads: 4, numKvHeads: 2, headDim: 4, scale: 1, perLayerSlidingWindow: window }, `layers.${i}`));
  return { config, layers };
}

/** [window, numbers of layers] of every group. */
function groupsOf(windows: readonly (number | null)[], parts: VllmConfigParts = {}) {
  const { config, layers } = configOf(windows, parts);
  const groups = kvCacheGroups(config);
  for (const [number, { layers: members, numLayers }] of groups.entries()) {
    expect(numLayers).toBe(members.length);
    for (const layer of members) expect(layer.kvCacheGroup).toBe(number);
  }
  for (const layer of layers) layer.kvCache.dispose();
  return groups.map((group) => [group.slidingWindow, group.layers.map((layer) => layers.indexOf(layer))]);
}

describe('groups of layers', () => {
  it.each<[string, (number | null)[], [number | null, number[]][]]>([
    ['all see everything', [null, null], [[null, [0, 1]]]],
    ['all have the same window', [16, 16], [[16, [0, 1]]]],
    ['as many of both kinds (Gemma 2)', [16, null, 16, null], [[null, [1, 3]], [16, [0, 2]]]],
    ['few without a window (Gemma 3): groups of as many layers, the last one smaller', [16, 16, null, 16, 16, null, 16], [[null, [2, 5]], [16, [0, 1]], [16, [3, 4]], [16, [6]]]],
    ['several windows', [16, null, 8], [[null, [1]], [16, [0]], [8, [2]]]],
    ['a window as long as the longest sequence hides nothing', [64, null, 63], [[null, [0]], [null, [1]], [63, [2]]]],
  ])('%s', (_, windows, expected) => {
    expect(groupsOf(windows)).toEqual(expected);
  });

  it('nearly as many of both kinds are not cut', () => {
    const windows = [...new Array<number>(6).fill(16), ...new Array<null>(5).fill(null)];
    expect(groupsOf(windows).map(([window, members]) => [window, (members as number[]).length])).toEqual([[null, 5], [16, 6]]);
  });

  it('one that keeps everything, when the option says so or caches differ in size', () => {
    expect(groupsOf([16, null], { cache: { hybridKvCacheManager: false } })).toEqual([[null, [0, 1]]]);
    const { config, layers } = configOf([16]);
    layers.push(new Attention(config, { numHeads: 4, numKvHeads: 1, headDim: 4, scale: 1, perLayerSlidingWindow: null }, 'other'));
    expect(kvCacheGroups(config)).toEqual([{ slidingWindow: null, numLayers: 2, layers }]);
    for (const layer of layers) layer.kvCache.dispose();
  });

  it('of a model without attention: an empty one', () => {
    expect(kvCacheGroups(makeVllmConfig())).toEqual([{ slidingWindow: null, numLayers: 0, layers: [] }]);
  });
});

describe('memory of groups', () => {
  it('is shared by the n-th layers of all groups', async () => {
    const { config, layers } = configOf([16, 16, null, 16, 16, null, 16]);
    const device = Device.create('cpu', 1);
    const groups = kvCacheGroups(config);
    const cache = KvCache.allocate(config, device, groups);
    expect(cache).toMatchObject({ numBlocks: 5, bytes: 5 * 2 * BYTES });
    expect(requestedBytes(config, groups)).toBe(cache.bytes);
    expect(liveStorages()).toEqual({ count: 2, bytes: cache.bytes });
    const places = layers.map(({ kvCache }) => kvCache.storage!.id);
    expect([places[2], places[0], places[3], places[6]]).toEqual(new Array(4).fill(places[2]));
    expect([places[5], places[1], places[4]]).toEqual(new Array(3).fill(places[5]));
    expect(places[2]).not.toBe(places[5]);
    for (const { kvCache } of layers) expect(kvCache.shape).toEqual([5, 2, 2, 16, 4]);
    cache.dispose();
    await device.close();
    expect(liveStorages().count).toBe(0);
    expect(tensorTable().liveRows).toBe(0);
  });

  it('is as much as all requests need: blocks before a window only where a prefix cache keeps them', () => {
    const sized = (enablePrefixCaching: boolean) =>
      makeVllmConfig({ cache: { numBlocks: null, kvCacheBytes: 1e9, enablePrefixCaching }, scheduler: { maxNumSeqs: 3, maxNumBatchedTokens: 8 }, model: { maxModelLen: 800 } });
    const groups = [{ slidingWindow: null }, { slidingWindow: 16 }, { slidingWindow: 16 }];
    expect(blocksOf(sized(true), 1024, 0, groups)).toBe(3 * (50 + 50 + 50) + 1);
    // 15 tokens before 8 of a step touch three blocks.
    expect(blocksOf(sized(false), 1024, 0, groups)).toBe(3 * (50 + 3 + 3) + 1);
  });

  it('has a block for each group at least, and the null block', async () => {
    const config = makeVllmConfig({ cache: { numBlocks: null, kvCacheBytes: 4095 } });
    const groups = [null, 16, 16].map((slidingWindow) => ({ slidingWindow }));
    await expectCode('ERR_KVASIR_OUT_OF_MEMORY', () => blocksOf(config, 1024, 0, groups));
    expect(blocksOf(config, 1023, 0, groups)).toBe(4);
  });
});
