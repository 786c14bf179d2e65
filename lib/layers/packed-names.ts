import { KvasirError } from '../utils/errors';

/** Checkpoint names of the parts of fused layers, by the layer's own last name (vllm packed_modules_mapping). */
export const PACKED_MODULES: Readonly<Record<string, readonly string[]>> = {
  qkv_proj: ['q_proj', 'k_proj', 'v_proj'],
  gate_up_proj: ['gate_proj', 'up_proj'],
};

/** Last component of a dotted name. */
function lastName(prefix: string): string {
  return prefix.slice(prefix.lastIndexOf('.') + 1);
}

/** Full checkpoint names of a fused layer's parts, which lie beside it: given by their last names, or by the table. */
export function fullPartNames(prefix: string, count: number, given: readonly string[] | undefined): readonly string[] {
  const own = lastName(prefix);
  const names = given ?? (Object.hasOwn(PACKED_MODULES, own) ? PACKED_MODULES[own] : undefined);
  if (!names || names.length !== count)
    throw new KvasirError('ERR_KVASIR_LAYER', `${prefix}: expected partNames with the ${count} names of its parts in the checkpoint, got ${names ? names.join(', ') : 'none'}`);
  const parent = prefix.slice(0, prefix.length - own.length);
  return names.map((name) => `${parent}${name}`);
}
