import type { ComputeDType, VllmConfig } from '../config/vllm';
import { Parameter } from '../nn/parameter';
import type { KvScales } from '../ops/cache';
import type { QuantizationConfig } from '../quantization/method';
import { KvasirError } from '../utils/errors';

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

/** What a checkpoint of a quantized model may hold for an attention layer. Queries and weights stay as they are here, so theirs are read and dropped. */
export type KvScaleParameters = Readonly<Record<'k' | 'v' | 'q' | 'prob', Parameter>>;

/**
 * Scales of an attention layer under all the names that they have (vllm maybe_remap_kv_scale_name and get_cache_scale): with the layer
 * itself, with its parent, with the projections, or one `kv_scale` for both. All are scalars and optional.
 * @param prefix full name of the attention layer; names beside it are looked for when it ends with `.attn`
 */
export function kvScaleParameters(prefix: string): KvScaleParameters {
  const parent = prefix.endsWith('.attn') ? prefix.slice(0, -'.attn'.length) : null;
  const parameter = (kind: string, beside: readonly string[]): Parameter => {
    const names = [`${prefix}.${kind}_scale`, ...(parent === null ? [] : beside.map((name) => `${parent}.${name}`))];
    const sources = names.map((name) => ({ name, shardId: null }));
    return new Parameter(names[0]!, [1], 'float32', { sources, role: 'source', optional: true });
  };
  const projected = (kind: string): string[] => [`${kind}_scale`, `${kind}_proj.${kind}_scale`, `qkv_proj.${kind}_scale`, `${kind}_proj.output_scale`];
  return {
    k: parameter('k', [...projected('k'), 'k_cache.scale', 'kv_scale']),
    v: parameter('v', [...projected('v'), 'v_cache.scale']),
    q: parameter('q', projected('q')),
    prob: parameter('prob', ['prob_scale', 'prob_output_scale']),
  };
}

/**
 * Reads the scales that were loaded and frees them.
 * @returns null when the checkpoint has none
 * @throws KvasirError ERR_KVASIR_WEIGHTS for a scale that is no number to divide by
 */
export async function takeKvScales(prefix: string, parameters: KvScaleParameters): Promise<KvScales | null> {
  const read = async ({ name, tensor, isComplete }: Parameter): Promise<number | null> => {
    if (!isComplete) return null;
    const scale = ((await tensor.read()) as Float32Array)[0]!;
    if (scale === 0 || !Number.isFinite(scale))
      throw new KvasirError('ERR_KVASIR_WEIGHTS', `${name}: expected a finite scale above 0 (or below 0 for none) for ${prefix}, received ${scale}`);
    return scale > 0 ? scale : null;
  };
  const [k, v] = [await read(parameters.k), await read(parameters.v)];
  for (const parameter of Object.values(parameters)) parameter.dispose();
  return pairScales(k, v);
}

/** Both scales when both are there; the one that is there for both; null without any (vllm BaseKVCacheMethod). */
export function pairScales(k: number | null, v: number | null): KvScales | null {
  const [kScale, vScale] = [k ?? v, v ?? k];
  return kScale === null || vScale === null ? null : { kScale, vScale };
}
