import { describeValue } from '../utils/describe-value';
import { checkNumber, HF_FIELDS, modelConfigError, type RawConfig, readHfBoolean, readHfField, readHfString } from './hf-fields';
import type { ModelConfig } from './model';

/** Window of a layer in tokens, the query's own included; null: it sees everything before it. */
export type LayerWindow = number | null;

/** Families whose older config.json says of its sliding layers only that there are some: every n-th layer has full attention. */
const PATTERN_OF_FAMILY: Readonly<Record<string, number>> = { gemma2: 2, gemma3_text: 6, cohere2: 4 };

/** Families whose window is switched on by use_sliding_window, and the full layers at the start when config.json does not say how many. */
const SWITCHED_FAMILIES: Readonly<Record<string, number>> = { qwen2: 28, qwen2_moe: 28, qwen3: 28, qwen3_moe: 28 };

/**
 * The window of every layer, from whatever form config.json has, in this order (transformers, configuration_*.py; vLLM
 * interleaved_sliding_window):
 * `use_sliding_window: false` (no layer slides); a list `sliding_window: [null, 1024, ...]`, repeated over the layers (Ministral);
 * `layer_types`, where "sliding_attention" slides and every other type does not; `sliding_window_pattern: n` (every n-th layer is full);
 * the pattern of the family (Gemma 2: the even layers slide); `max_window_layers: n` (the first n layers are full); else every layer.
 * @throws KvasirError ERR_KVASIR_MODEL_CONFIG
 */
export function layerWindows(config: RawConfig, numLayers: number): LayerWindow[] {
  const windows = windowsOf(config, numLayers);
  const perLayer = layerSlides(config, numLayers);
  return Array.from({ length: numLayers }, (_, layer) => (perLayer(layer) ? windows(layer) : null));
}

/** What {@link ModelConfig} keeps: a window that all layers share, or the largest where layers differ. */
export function slidingWindows(config: RawConfig, numLayers: number): Pick<ModelConfig, 'slidingWindow' | 'interleavedSlidingWindow'> {
  const windows = layerWindows(config, numLayers);
  const [first = null] = windows;
  if (windows.every((window) => window === first)) return { slidingWindow: first, interleavedSlidingWindow: null };
  return { slidingWindow: null, interleavedSlidingWindow: windows.reduce<number>((largest, window) => Math.max(largest, window ?? 0), 0) };
}

type ByLayer<T> = (layer: number) => T;

function windowsOf(config: RawConfig, numLayers: number): ByLayer<LayerWindow> {
  const value = config.sliding_window;
  if (!Array.isArray(value)) {
    const window = readHfField(config, 'slidingWindow');
    return () => window;
  }
  if (value.length === 0 || value.length > numLayers)
    throw modelConfigError(`config.json: sliding_window: expected a number or an array of 1 to ${numLayers} windows, received ${describeValue(value)}`);
  const list = value.map((entry: unknown, i) => (entry === null ? null : checkNumber(entry, `sliding_window[${i}]`, HF_FIELDS.slidingWindow)));
  return (layer) => list[layer % list.length]!;
}

/** Which layers slide, provided that they have a window. */
function layerSlides(config: RawConfig, numLayers: number): ByLayer<boolean> {
  const family = readHfString(config, 'model_type') ?? '';
  const fullAtStart = Object.hasOwn(SWITCHED_FAMILIES, family) ? SWITCHED_FAMILIES[family]! : null;
  const used = readHfBoolean(config, 'use_sliding_window', fullAtStart === null);
  const types = readLayerTypes(config, numLayers);
  const ownPattern = readHfField(config, 'slidingWindowPattern');
  const pattern = ownPattern ?? (Object.hasOwn(PATTERN_OF_FAMILY, family) ? PATTERN_OF_FAMILY[family]! : null);
  const maxWindowLayers = readHfField(config, 'maxWindowLayers') ?? fullAtStart ?? 0;
  if (!used) return () => false;
  if (Array.isArray(config.sliding_window)) return () => true;
  if (types !== null) return (layer) => types[layer] === 'sliding_attention';
  if (pattern !== null) return (layer) => (layer + 1) % pattern !== 0;
  return (layer) => layer >= maxWindowLayers;
}

function readLayerTypes(config: RawConfig, numLayers: number): readonly string[] | null {
  const value = config.layer_types ?? null;
  if (value === null) return null;
  if (!Array.isArray(value) || value.length !== numLayers || !value.every((type) => typeof type === 'string')) {
    throw modelConfigError(`config.json: layer_types: expected an array of ${numLayers} names, received ${describeValue(value)}`);
  }
  return value as string[];
}
