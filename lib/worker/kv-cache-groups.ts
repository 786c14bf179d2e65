import type { KVCacheGroupSpec } from '../config/kv-cache-groups';
import type { VllmConfig } from '../config/vllm';
import type { Attention } from '../layers/attention';

/** Attention layers that share block tables. The n-th layers of all groups share memory: a block is one group's at a time. */
export interface KvCacheGroup extends KVCacheGroupSpec {
  readonly layers: readonly Attention[];
}

/** Counts of layers that differ by less than this factor are not cut into smaller groups. */
const NEARLY_EQUAL = 1.25;

/** All attention layers in one group that keeps every block. */
export function singleGroup(vllmConfig: VllmConfig): KvCacheGroup[] {
  const layers = [...vllmConfig.staticForwardContext.values()] as Attention[];
  return [{ slidingWindow: null, numLayers: layers.length, layers }];
}

/**
 * Cuts the attention layers into groups by window (vllm.v1.core.kv_cache_utils.get_kv_cache_groups), those without one first, and
 * tells the layers their numbers. Groups have as many layers as the kind of which there are fewest, so that a block has one size for
 * all; a last group may have fewer. Layers with caches of different sizes stay in one group that keeps every block.
 */
export function kvCacheGroups(vllmConfig: VllmConfig): KvCacheGroup[] {
  const [all] = singleGroup(vllmConfig) as [KvCacheGroup];
  const kinds = kindsOf(vllmConfig, all.layers);
  const groups = kinds === null ? [all] : cut(kinds);
  groups.forEach(({ layers }, group) => {
    for (const layer of layers) layer.kvCacheGroup = group;
  });
  return groups;
}

/** Layers by window, in ascending order of what they see less and less of; null when they are to stay together. */
function kindsOf({ cache, model }: VllmConfig, layers: readonly Attention[]): Map<number | null, Attention[]> | null {
  const [first] = layers;
  if (!cache.hybridKvCacheManager || first === undefined) return null;
  if (layers.some((layer) => layer.numKvHeads * layer.headDim !== first.numKvHeads * first.headDim)) return null;
  const kinds = new Map<number | null, Attention[]>();
  // What is as long as the longest sequence hides nothing.
  const windowOf = ({ slidingWindow }: Attention): number | null => (slidingWindow !== null && slidingWindow < model.maxModelLen ? slidingWindow : null);
  const windows = [...new Set(layers.map(windowOf))].sort((a, b) => (b ?? Infinity) - (a ?? Infinity));
  for (const window of windows) kinds.set(window, layers.filter((layer) => windowOf(layer) === window));
  return kinds;
}

function cut(kinds: ReadonlyMap<number | null, readonly Attention[]>): KvCacheGroup[] {
  const counts = [...kinds.values()].map((layers) => layers.length);
  const [fewest, most] = [Math.min(...counts), Math.max(...counts)];
  const size = most < NEARLY_EQUAL * fewest ? most : fewest;
  const groups: KvCacheGroup[] = [];
  for (const [slidingWindow, layers] of kinds) {
    for (let start = 0; start < layers.length; start += size) {
      const part = layers.slice(start, start + size);
      groups.push({ slidingWindow, numLayers: part.length, layers: part });
    }
  }
  return groups;
}
