import type { DType } from '../config/vllm';
import { Parameter, type LoadedWeight, type ShardId, type WeightLoader } from '../nn/parameter';
import { copyInto, fill } from '../ops/copy';
import { canPackBytes, canPackInt4, linearInt4, linearInt8, packInt4, packInt8 } from '../ops/quant';
import type { Tensor } from '../tensor/tensor';
import { unsupported } from './config-fields';
import type { LinearWeightSpec } from './method';
import { gatherColumns, transposed } from './permute';

/** Scales of a group must begin with a whole step of the kernels: this many inputs. */
const GROUP_STEP = { 4: 8, 8: 4 } as const;

/** Sizes of uniformly random integers, for dummy weights. */
const RANDOM_INT4_RMS = 4.6;
export const RANDOM_INT8_RMS = 74;

export interface IntFormat {
  readonly bits: 4 | 8;
  /** Inputs that share a scale; -1: all inputs. */
  readonly groupSize: number;
  /** Zero points besides 8 (4 bits only). */
  readonly hasZeros: boolean;
}

/**
 * Rows of the layer and groups of one row on this rank.
 * @throws KvasirError ERR_KVASIR_QUANTIZATION, ERR_KVASIR_UNSUPPORTED for sizes that do not fit the format
 */
export function intShape(spec: LinearWeightSpec, { bits, groupSize }: IntFormat): { rows: number; inputs: number; groups: number } {
  const rows = spec.outputPartitionSizes.reduce((a, b) => a + b, 0);
  const inputs = spec.inputSizePerPartition;
  const size = groupSize === -1 ? inputs : groupSize;
  if (inputs % size !== 0 || (size !== inputs && size % GROUP_STEP[bits] !== 0) || inputs % GROUP_STEP[bits] !== 0)
    throw unsupported(
      `${spec.prefix}: its ${inputs} inputs must be whole groups of ${size}, and both multiples of ${GROUP_STEP[bits]}, for ${bits}-bit weights`,
    );
  return { rows, inputs, groups: inputs / size };
}

/**
 * Integer weights in groups in the form of the kernels, w = (q - zero) * scale, made from whatever a checkpoint stores. A
 * float32 model multiplies exactly. With 16 bits, the CPU rounds activations to int8 (what makes prompts fast there);
 * CUDA does not.
 */
export class IntWeights {
  readonly tensors: Record<string, Parameter>;
  /** Rows, inputs and groups of a row on this rank. */
  readonly shape: { readonly rows: number; readonly inputs: number; readonly groups: number };
  private readonly dynamicActivation: boolean;
  private scaleDtype: DType = 'float16';

  constructor(
    private readonly spec: LinearWeightSpec,
    private readonly format: IntFormat,
  ) {
    this.shape = intShape(spec, format);
    const { rows, inputs, groups } = this.shape;
    this.dynamicActivation = spec.dtype !== 'float32' && spec.deviceType === 'cpu';
    const derived = (name: string, shape: number[], dtype: DType): Parameter => new Parameter(`${spec.prefix}.${name}`, shape, dtype, { role: 'derived' });
    this.tensors = {
      weight: format.bits === 4 ? derived('weight', [rows, inputs / 2], 'uint8') : derived('weight', [rows, inputs], 'int8'),
      scales: derived('scales', [rows, groups], spec.dtype === 'float32' ? 'float32' : 'float16'),
      ...(format.hasZeros ? { zeros: derived('zeros', [rows, groups], 'uint8') } : {}),
    };
  }

  /** A tensor of the checkpoint that is made into something else after loading. */
  source(name: string, shape: readonly number[], dtype: DType, weightLoader: WeightLoader, options: { optional?: boolean; dummy?: (tensor: Tensor) => void } = {}): Parameter {
    const { prefix } = this.spec;
    const param = new Parameter(`${prefix}.${name}`, shape, dtype, { ...options, role: 'source', sources: this.spec.sources(name), weightLoader });
    this.tensors[`${name}Source`] = param; // a final form may have the same name
    return param;
  }

  /** The source of the scales; they keep the type of the checkpoint unless the model computes in float32. */
  scaleSource(name: string, shape: readonly number[], weightLoader: WeightLoader): Parameter {
    const load = (param: Parameter, loaded: LoadedWeight, shardId: ShardId): void => {
      if (this.spec.dtype !== 'float32') this.scaleDtype = loaded.dtype;
      weightLoader(param, loaded, shardId);
    };
    const rms = this.format.bits === 4 ? RANDOM_INT4_RMS : RANDOM_INT8_RMS;
    const size = 1 / (rms * Math.sqrt(this.shape.inputs));
    return this.source(name, shape, 'float32', load, { dummy: (tensor) => fill(tensor, size) });
  }

  /** Memory for the final form of a tensor. */
  take(name: 'weight' | 'zeros', like: Parameter): Tensor {
    const param = this.tensors[name]!;
    param.allocate(like.tensor.device);
    param.materialize();
    return param.tensor;
  }

  /** Scales [out, groups] from [groups, out] (`isTransposed`) or from the same order. */
  takeScales(source: Parameter, isTransposed: boolean): void {
    const { prefix, dtype } = this.spec;
    let scales = this.tensors.scales!;
    const wanted = dtype === 'float32' ? 'float32' : this.scaleDtype;
    if (scales.dtype !== wanted) {
      scales.dispose();
      scales = this.tensors.scales = new Parameter(`${prefix}.scales`, [this.shape.rows, this.shape.groups], wanted, { role: 'derived' });
    }
    scales.allocate(source.tensor.device);
    scales.materialize();
    copyInto(scales.tensor, isTransposed ? transposed(source.tensor) : source.tensor);
  }

  /** Everything is there: the backend's own order. */
  pack(): void {
    const { weight, scales, zeros } = this.tensors;
    const { inputs } = this.shape;
    if (this.format.bits === 4 && canPackInt4(inputs)) packInt4(weight!.tensor, scales!.tensor, zeros?.tensor ?? null);
    if (this.format.bits === 8 && canPackBytes(inputs)) packInt8(weight!.tensor, scales!.tensor);
  }

  apply(x: Tensor, bias: Tensor | null, outputDtype?: 'float32'): Tensor {
    const { weight, scales, zeros, order } = this.tensors;
    const input = order?.tensor.storage ? gatherColumns(x, order.tensor) : x;
    if (this.format.bits === 8) return linearInt8(input, weight!.tensor, scales!.tensor, bias, this.dynamicActivation, outputDtype);
    return linearInt4(input, weight!.tensor, scales!.tensor, zeros?.tensor ?? null, bias, this.dynamicActivation, outputDtype);
  }
}
