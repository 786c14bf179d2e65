import { agreed } from './name-list';
import type { QuantizableLayer } from './method';

/** Element types of a checkpoint's tensors (as safetensors names them: F16, I32, ...) by the tensors' names. */
export type CheckpointTypes = ReadonlyMap<string, string>;

const PLAIN = new Set(['F32', 'F16', 'BF16']);

/**
 * Whether the checkpoint itself shows that a layer is not quantized: its weight is there as plain numbers. Recipes without
 * a list of layers leave some out (routers of experts, heads), and only their tensors tell (vllm, awq and gptq).
 * @throws KvasirError ERR_KVASIR_QUANTIZATION when the parts of a fused layer differ
 */
export function isPlainInCheckpoint(types: CheckpointTypes | null, layer: QuantizableLayer, prefix: string): boolean {
  if (!types) return false;
  const isPlain = (name: string): boolean => PLAIN.has(types.get(`${name}.weight`) ?? '');
  const isPlainText = (plain: boolean): string => (plain ? 'plain' : 'quantized');
  return isPlain(prefix) || agreed(layer, prefix, "the type of the checkpoint's tensors", isPlain, isPlainText);
}
