import type { Parameter } from '../nn/parameter';
import { repackInt4, repackInt8 } from '../ops/quant';
import { fill } from '../ops/copy';
import type { Tensor } from '../tensor/tensor';
import { checkPacking } from './gptq';
import { IntWeights } from './int-weights';
import type { LinearMethod, LinearWeights, LinearWeightSpec, RunOps } from './method';

export interface PackedIntOptions {
  readonly bits: 4 | 8;
  /** -1: one scale per output, or per part. */
  readonly groupSize: number;
  readonly symmetric: boolean;
  /** Groups are of inputs of like importance; weight_g_idx says which (actorder "group"). */
  readonly ordered: boolean;
}

/** Linear layers of compressed-tensors' pack-quantized format (W4A16, W8A16). */
export class PackedIntLinearMethod implements LinearMethod {
  constructor(private readonly options: PackedIntOptions) {}

  createWeights(spec: LinearWeightSpec): LinearWeights {
    return new PackedIntWeights(spec, this.options);
  }
}

/** weight_packed [out, in / pack], weight_scale [out, groups], weight_zero_point [out / 8, groups], weight_shape [2]; pack is 8 or 4. */
class PackedIntWeights implements LinearWeights {
  readonly tensors: Record<string, Parameter>;
  private readonly ints: IntWeights;
  private readonly words: Parameter;
  private readonly scales: Parameter;
  private readonly zeros: Parameter | null;
  private readonly groupIndex: Parameter | null;

  constructor(
    private readonly spec: LinearWeightSpec,
    private readonly options: PackedIntOptions,
  ) {
    const { bits, groupSize, symmetric, ordered } = options;
    const pack = 32 / bits;
    const ints = (this.ints = new IntWeights(spec, { bits, groupSize, hasZeros: !symmetric, ordered }));
    this.tensors = ints.tensors;
    const { rows, inputs, storedGroups } = ints.shape;
    const parts = spec.outputPartitionSizes.length;
    const cut = groupSize === -1 || ordered ? {} : { inputDim: 1, inputUnit: groupSize, inputsCovered: true };
    this.words = ints.source('weight_packed', [rows, inputs / pack], 'int32', spec.loader({ outputDim: 0, inputDim: 1, inputUnit: pack }));
    this.scales = ints.scaleSource('weight_scale', [rows, storedGroups], spec.loader({ outputDim: 0, ...cut, scalarFills: groupSize === -1 }));
    if (!symmetric) checkPacking(spec, pack);
    const dummy = (t: Tensor): void => fill(t, 0x88888888 | 0);
    this.zeros = symmetric ? null : ints.source('weight_zero_point', [rows / pack, storedGroups], 'int32', spec.loader({ outputDim: 0, outputUnit: pack, ...cut }), { dummy });
    const identity = (t: Tensor): void => t.write(Int32Array.from({ length: t.numel }, (_, i) => Math.floor((i % inputs) / groupSize)));
    this.groupIndex = ordered ? ints.source('weight_g_idx', [parts, inputs], 'int32', spec.loader({ perPart: true, inputDim: 0 }), { dummy: identity }) : null;
    ints.source('weight_shape', [parts, 2], 'int64', spec.loader({ perPart: true }), { optional: true }); // says what the layer knows
  }

  async processAfterLoading(run: RunOps): Promise<void> {
    const { ints, zeros, groupIndex } = this;
    const words = groupIndex ? await ints.orderInputs(groupIndex, this.words, true) : this.words;
    run(() => {
      if (this.options.bits === 4) repackInt4(ints.take('weight', words), words.tensor, 'compressed');
      else repackInt8(ints.take('weight', words), words.tensor, 'compressed');
      if (zeros) ints.takeZeros(zeros, 'compressed');
      ints.takeScales(this.scales, false);
      ints.pack();
    });
  }

  apply(x: Tensor, bias: Tensor | null, outputDtype?: 'float32'): Tensor {
    return this.ints.apply(x, bias, outputDtype);
  }
}
