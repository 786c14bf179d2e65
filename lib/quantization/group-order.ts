import { quantizationError } from './config-fields';

/** How inputs lie in packed words. */
export interface WordOrder {
  readonly rows: number;
  /** Inputs in a word: 8 or 4. */
  readonly perWord: number;
  /** Words of one row are neighbours; else those of one word's place in all rows. */
  readonly rowsFirst: boolean;
}

/** Inputs as the kernels take them: which one is at each place (-1: none), and which group of the checkpoint each group is. */
export interface InputOrder {
  readonly order: Int32Array;
  /** Null: the groups of the checkpoint, in their order. */
  readonly storedOf: Int32Array | null;
}

/**
 * The order in which a layer must take its inputs so that groups are neighbours (act-order: groups are of inputs of like
 * importance, and g_idx says which group an input is in), or null when they are neighbours already.
 * @param groupOf [parts, inputs] of the parts of a fused layer, which have the same inputs and therefore the same groups
 * @throws KvasirError ERR_KVASIR_QUANTIZATION
 */
export function inputOrder(prefix: string, groupOf: Int32Array, parts: number, groupSize: number): InputOrder | null {
  const inputs = groupOf.length / parts;
  const first = groupOf.subarray(0, inputs);
  for (let part = 1; part < parts; part++)
    if (first.some((group, i) => groupOf[part * inputs + i] !== group))
      throw quantizationError(`${prefix}: its parts were quantized with different orders of their inputs (g_idx), so they cannot be one matrix`);
  const order = sortedByGroup(first);
  if (order.some((input, at) => first[input] !== Math.floor(at / groupSize)))
    throw quantizationError(`${prefix}: g_idx must place ${groupSize} of its ${inputs} inputs in each of the groups 0..${Math.ceil(inputs / groupSize) - 1}`);
  return order.some((input, at) => input !== at) ? { order, storedOf: null } : null;
}

/**
 * {@link inputOrder} of a rank that has some of the inputs, which may be any number of every group. Each group is filled up to a multiple
 * of `step` places, the size of the groups that the kernels see.
 * @throws KvasirError ERR_KVASIR_QUANTIZATION
 */
export function cutInputOrder(prefix: string, groupOf: Int32Array, numGroups: number, step: number): InputOrder {
  const order: number[] = [];
  const storedOf: number[] = [];
  for (const input of sortedByGroup(groupOf)) {
    const group = groupOf[input]!;
    if (group < 0 || group >= numGroups) throw quantizationError(`${prefix}: g_idx must place its inputs in the groups 0..${numGroups - 1}, received ${group}`);
    if (storedOf.at(-1) !== group) while (order.length % step !== 0) order.push(-1);
    if (order.length % step === 0) storedOf.push(group);
    order.push(input);
  }
  while (order.length % step !== 0) order.push(-1);
  return { order: Int32Array.from(order), storedOf: Int32Array.from(storedOf) };
}

function sortedByGroup(groupOf: Int32Array): Int32Array {
  return Int32Array.from(groupOf, (_, i) => i).sort((a, b) => groupOf[a]! - groupOf[b]! || a - b);
}

/** Packed integers with input order[i] at place i, and zeros where there is none. */
export function permuteInputs(words: Int32Array, order: Int32Array, { rows, perWord, rowsFirst }: WordOrder): Int32Array {
  const out = new Int32Array((order.length / perWord) * rows);
  const bits = 32 / perWord;
  const mask = bits === 4 ? 0xf : 0xff;
  const place = (input: number): number => Math.floor(input / perWord) * (rowsFirst ? 1 : rows);
  const [fromStep, toStep] = [words.length, out.length].map((length) => (rowsFirst ? length / rows : 1)) as [number, number];
  for (let at = 0; at < order.length; at++) {
    const input = order[at]!;
    if (input < 0) continue;
    const [from, fromShift] = [place(input), (input % perWord) * bits];
    const [to, toShift] = [place(at), (at % perWord) * bits];
    for (let row = 0; row < rows; row++) out[to + row * toStep]! |= ((words[from + row * fromStep]! >>> fromShift) & mask) << toShift;
  }
  return out;
}
