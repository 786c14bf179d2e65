import type { DType } from '../config/vllm';
import { Parameter, type LoadedWeight, type ShardId, type WeightLoader } from '../nn/parameter';
import { fill } from '../ops/copy';
import { canPackBytes, canPackInt4, linearInt4, linearInt8, packInt4, packInt8, unpackZeros, type PackFormat } from '../ops/quant';
import { output } from '../ops/run';
import type { Tensor } from '../tensor/tensor';
import { cutInputOrder, inputOrder, permuteInputs } from './group-order';
import { GROUP_STEP, intShape, spreadGroups, type IntFormat, type IntShape } from './int-shape';
import type { LinearWeightSpec } from './method';
import { gatherColumns, transposed } from './permute';

/** Sizes of uniformly random integers, for dummy weights. */
const RANDOM_INT4_RMS = 4.6;
export const RANDOM_INT8_RMS = 74;

/**
 * Integer weights in groups in the form of the kernels, w = (q - zero) * scale, made from whatever a checkpoint stores. A
 * float32 model multiplies exactly. With 16 bits, the CPU rounds activations to int8 (what makes prompts fast there);
 * CUDA does not.
 */
export class IntWeights {
  readonly tensors: Record<string, Parameter>;
  private layout: IntShape;
  private readonly dynamicActivation: boolean;
  private scaleDtype: DType = 'float16';

  constructor(
    private readonly spec: LinearWeightSpec,
    private readonly format: IntFormat,
  ) {
    this.layout = intShape(spec, format);
    this.dynamicActivation = spec.dtype !== 'float32' && spec.deviceType === 'cpu';
    this.tensors = this.derivedTensors();
  }

  /** Sizes on this rank. */
  get shape(): IntShape {
    return this.layout;
  }

  private derivedTensors(): Record<string, Parameter> {
    const { bits, hasZeros } = this.format;
    const { rows, inputs, groups } = this.layout;
    return {
      weight: bits === 4 ? this.derived('weight', [rows, inputs / 2], 'uint8') : this.derived('weight', [rows, inputs], 'int8'),
      scales: this.derived('scales', [rows, groups], this.spec.dtype === 'float32' ? 'float32' : 'float16'),
      ...(hasZeros ? { zeros: this.derived('zeros', [rows, groups], 'uint8') } : {}),
    };
  }

  private derived(name: string, shape: readonly number[], dtype: DType): Parameter {
    return new Parameter(`${this.spec.prefix}.${name}`, shape, dtype, { role: 'derived' });
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

  /**
   * Makes the inputs of each group neighbours where g_idx says that they are not (act-order): the packed words are rearranged on the host.
   * @param groupIndex [parts, inputs]
   * @returns the words to go on with
   */
  async orderInputs(groupIndex: Parameter, words: Parameter, rowsFirst: boolean): Promise<Parameter> {
    const { prefix, inputSize, inputSizePerPartition } = this.spec;
    const { bits, groupSize } = this.format;
    const groupOf = (await groupIndex.tensor.read()) as Int32Array;
    const isCut = inputSizePerPartition !== inputSize;
    const found = isCut ? cutInputOrder(prefix, groupOf, this.shape.storedGroups, GROUP_STEP[bits]) : inputOrder(prefix, groupOf, groupIndex.shape[0]!, groupSize);
    if (!found) return words;
    const { order, storedOf } = found;
    const values = permuteInputs((await words.tensor.read()) as Int32Array, order, { rows: this.shape.rows, perWord: 32 / bits, rowsFirst });
    if (storedOf) this.resize(order.length, storedOf);
    this.tensors.order = this.written('order', [order.length], order, words);
    if (!isCut) {
      words.tensor.write(values);
      return words;
    }
    const numWords = (order.length * bits) / 32;
    const ordered = this.written('ordered_words', rowsFirst ? [this.shape.rows, numWords] : [numWords, this.shape.rows], values, words, 'source');
    this.tensors.orderedSource = ordered;
    return ordered;
  }

  /** Other numbers of inputs and groups than the checkpoint made expect. */
  private resize(inputs: number, storedOf: Int32Array): void {
    for (const name of ['weight', 'scales', 'zeros']) this.tensors[name]?.dispose();
    this.layout = { ...this.layout, inputs, groups: storedOf.length, storedOf };
    Object.assign(this.tensors, this.derivedTensors());
  }

  private written(name: string, shape: readonly number[], values: Int32Array, like: Parameter, role: 'derived' | 'source' = 'derived'): Parameter {
    const param = new Parameter(`${this.spec.prefix}.${name}`, shape, 'int32', { role });
    param.allocate(like.tensor.device);
    param.materialize();
    param.tensor.write(values);
    return param;
  }

  /** Memory for the final form of a tensor. */
  take(name: 'weight' | 'zeros', like: Parameter): Tensor {
    const param = this.tensors[name]!;
    param.allocate(like.tensor.device);
    param.materialize();
    return param.tensor;
  }

  /** Scales [out, groups] from [storedGroups, out] (`isTransposed`) or from the same order. */
  takeScales(source: Parameter, isTransposed: boolean): void {
    const { dtype } = this.spec;
    let scales = this.tensors.scales!;
    const wanted = dtype === 'float32' ? 'float32' : this.scaleDtype;
    if (scales.dtype !== wanted) {
      scales.dispose();
      scales = this.tensors.scales = this.derived('scales', [this.shape.rows, this.shape.groups], wanted);
    }
    scales.allocate(source.tensor.device);
    scales.materialize();
    spreadGroups(scales.tensor, isTransposed ? transposed(source.tensor) : source.tensor, this.shape);
  }

  /** Zero points [out, groups] from packed ones. */
  takeZeros(source: Parameter, format: PackFormat): void {
    const { rows, storedGroups, storedOf } = this.shape;
    const zeros = this.take('zeros', source);
    const stored = storedOf === null ? zeros : output([rows, storedGroups], 'uint8');
    unpackZeros(stored, source.tensor, format);
    if (stored !== zeros) spreadGroups(zeros, stored, this.shape);
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
