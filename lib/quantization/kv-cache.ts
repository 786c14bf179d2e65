import type { ComputeDType, VllmConfig } from '../config/vllm';
import { unsupported, type ConfigFields } from './config-fields';
import type { QuantizationConfig } from './method';

/** Element types of a KV cache. */
export type KvCacheDType = ComputeDType | 'float8_e4m3';

/** Element type of the KV cache: as the option says; with 'auto' what the checkpoint is made for, else the model's. */
export function kvCacheDtypeOf({ cache, model, quantization }: VllmConfig): KvCacheDType {
  if (cache.kvCacheDtype === 'fp8') return 'float8_e4m3';
  return (quantization as QuantizationConfig | null)?.kvCacheDtype ?? model.dtype;
}

/** Whether the checkpoint may hold scales of keys and values: vLLM looks for them where there is a quantization method. */
export function mayHaveKvScales(vllmConfig: VllmConfig): boolean {
  const quantization = vllmConfig.quantization as QuantizationConfig | null;
  return kvCacheDtypeOf(vllmConfig) === 'float8_e4m3' || (quantization !== null && quantization.name !== 'none');
}

/** What a kv_cache_scheme must say (vllm CompressedTensorsKVCacheMethod.validate_kv_cache_scheme). */
const SCHEME = { type: 'float', num_bits: 8, strategy: 'tensor', symmetric: true, dynamic: false } as const;

/**
 * The type of the cache by kv_cache_scheme of compressed-tensors.
 * @throws KvasirError ERR_KVASIR_UNSUPPORTED for anything but e4m3 with one scale per layer
 */
export function kvCacheDtypeOfScheme(scheme: ConfigFields): 'float8_e4m3' {
  for (const [key, expected] of Object.entries(SCHEME)) {
    const value = scheme.value(key) ?? (key === 'type' || key === 'num_bits' ? null : expected);
    if (value !== expected) throw unsupported(`${scheme.where}: ${key}: expected ${expected}, received ${JSON.stringify(value)}`);
  }
  return 'float8_e4m3';
}
