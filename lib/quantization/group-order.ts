import { Parameter } from '../nn/parameter';
import { quantizationError } from './config-fields';

/** Where an input of a packed matrix lies: word `word * wordStep + row * rowStep` for every row. */
export interface PackedOrder {
  readonly rows: number;
  readonly rowStep: number;
  readonly wordStep: number;
  /** Inputs in a word: 8 or 4. */
  readonly perWord: number;
}

/**
 * The order in which a layer must take its inputs so that groups are neighbours (act-order: groups are of inputs of like
 * importance, and g_idx says which group an input is in), or null when they are neighbours already.
 * @param groupOf [parts, inputs] of the parts of a fused layer, which have the same inputs and therefore the same groups
 * @throws KvasirError ERR_KVASIR_QUANTIZATION
 */
export function inputOrder(prefix: string, groupOf: Int32Array, parts: number, groupSize: number): Int32Array | null {
  const inputs = groupOf.length / parts;
  const first = groupOf.subarray(0, inputs);
  for (let part = 1; part < parts; part++)
    if (first.some((group, i) => groupOf[part * inputs + i] !== group))
      throw quantizationError(`${prefix}: its parts were quantized with different orders of their inputs (g_idx), so they cannot be one matrix`);
  const order = Int32Array.from(first, (_, i) => i).sort((a, b) => first[a]! - first[b]! || a - b);
  if (order.some((input, at) => first[input] !== Math.floor(at / groupSize)))
    throw quantizationError(`${prefix}: g_idx must place ${groupSize} of its ${inputs} inputs in each of the groups 0..${Math.ceil(inputs / groupSize) - 1}`);
  return order.some((input, at) => input !== at) ? order : null;
}

/** Packed integers with input order[i] at place i. */
export function permuteInputs(words: Int32Array, order: Int32Array, { rows, rowStep, wordStep, perWord }: PackedOrder): Int32Array {
  const out = new Int32Array(words.length);
  const bits = 32 / perWord;
  const mask = bits === 4 ? 0xf : 0xff;
  for (let at = 0; at < order.length; at++) {
    const input = order[at]!;
    const [from, fromShift] = [Math.floor(input / perWord) * wordStep, (input % perWord) * bits];
    const [to, toShift] = [Math.floor(at / perWord) * wordStep, (at % perWord) * bits];
    for (let row = 0; row < rows; row++) out[to + row * rowStep]! |= ((words[from + row * rowStep]! >>> fromShift) & mask) << toShift;
  }
  return out;
}

/** Makes `order` the input order of a layer: its packed words are rearranged on the host. Resolves with the order as a parameter, or null. */
export async function reorderInputs(prefix: string, groupIndex: Parameter, words: Parameter, groupSize: number, packed: PackedOrder): Promise<Parameter | null> {
  const groupOf = (await groupIndex.tensor.read()) as Int32Array;
  const order = inputOrder(prefix, groupOf, groupIndex.shape[0]!, groupSize);
  if (!order) return null;
  words.tensor.write(permuteInputs((await words.tensor.read()) as Int32Array, order, packed));
  const param = new Parameter(`${prefix}.order`, [order.length], 'int32', { role: 'derived' });
  param.allocate(words.tensor.device);
  param.materialize();
  param.tensor.write(order);
  return param;
}
