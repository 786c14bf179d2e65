import { unsupported, type ConfigFields } from './config-fields';

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
