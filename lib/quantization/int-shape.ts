import { copyInto, gatherRows } from '../ops/copy';
import { output } from '../ops/run';
import type { Tensor } from '../tensor/tensor';
import { unsupported } from './config-fields';
import type { LinearWeightSpec } from './method';
import { transposed } from './permute';

/** Scales of a group must begin with a whole step of the kernels: this many inputs. */
export const GROUP_STEP = { 4: 8, 8: 4 } as const;

export interface IntFormat {
  readonly bits: 4 | 8;
  /** Inputs that share a scale; -1: all inputs. */
  readonly groupSize: number;
  /** Zero points besides 8 (4 bits only). */
  readonly hasZeros: boolean;
  /** Groups are of inputs anywhere in the layer (act-order). */
  readonly ordered?: boolean;
}

/** What one rank has of a layer. */
export interface IntShape {
  readonly rows: number;
  readonly inputs: number;
  /** Groups of one row, as the kernels see them. */
  readonly groups: number;
  /** Groups of the checkpoint that this rank has inputs of. */
  readonly storedGroups: number;
  /** Which of those each group of the kernels is (a part of); null: they are the same. */
  readonly storedOf: Int32Array | null;
}

/**
 * Sizes of a layer on this rank. Where the border of two ranks cuts a group, its parts are groups of their own with the same scale: all
 * groups are then as small as the parts.
 * @throws KvasirError ERR_KVASIR_UNSUPPORTED for sizes that do not fit the format
 */
export function intShape(spec: LinearWeightSpec, { bits, groupSize, ordered = false }: IntFormat): IntShape {
  const { prefix, inputSizePerPartition: inputs, inputSize, inputStart } = spec;
  const rows = spec.outputPartitionSizes.reduce((a, b) => a + b, 0);
  const step = GROUP_STEP[bits];
  const stored = groupSize === -1 ? inputs : groupSize;
  const wholeGroups = groupSize === -1 || inputSize % stored === 0;
  if (inputs % step !== 0 || !wholeGroups || (stored !== inputs && stored % step !== 0))
    throw unsupported(`${prefix}: its ${inputs} inputs must be whole groups of ${stored}, and both multiples of ${step}, for ${bits}-bit weights`);
  if (groupSize === -1) return { rows, inputs, groups: 1, storedGroups: 1, storedOf: null };
  // Until the order of its inputs is known, a rank takes all groups.
  if (ordered) return { rows, inputs, groups: inputSize / stored, storedGroups: inputSize / stored, storedOf: null };
  const size = greatestDivisor(stored, inputs); // a rank's inputs begin at a multiple of their number
  const first = Math.floor(inputStart / stored);
  const storedGroups = Math.ceil((inputStart + inputs) / stored) - first;
  const groups = inputs / size;
  const storedOf = size === stored ? null : Int32Array.from({ length: groups }, (_, i) => Math.floor((inputStart + i * size) / stored) - first);
  return { rows, inputs, groups, storedGroups, storedOf };
}

function greatestDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestDivisor(b, a % b);
}

/** What the checkpoint has for its groups, [rows, storedGroups], for every group of the kernels: [rows, groups]. */
export function spreadGroups(out: Tensor, stored: Tensor, { storedOf }: IntShape): void {
  if (storedOf === null) return copyInto(out, stored);
  const byGroup = output([stored.size(1), stored.size(0)], stored.dtype);
  copyInto(byGroup, transposed(stored));
  const indices = output([storedOf.length], 'int32');
  indices.write(storedOf);
  copyInto(out, transposed(gatherRows(byGroup, indices)));
}
