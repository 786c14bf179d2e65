import { Parameter } from '../nn/parameter';
import { fill } from '../ops/copy';
import { canPackBytes, linearInt8, packInt8 } from '../ops/quant';
import type { Tensor } from '../tensor/tensor';
import { intShape, spreadGroups, type IntShape } from './int-shape';
import { RANDOM_INT8_RMS } from './int-weights';
import type { LinearMethod, LinearWeights, LinearWeightSpec, RunOps } from './method';

export interface Int8Options {
  /** Inputs that share a scale; -1: one scale per output or per part. */
  readonly groupSize: number;
  /** Activations are rounded to int8 too (W8A8). */
  readonly activation: 'none' | 'dynamic' | 'static';
}

/** Linear layers with plain symmetric int8 weights (compressed-tensors int-quantized). */
export class Int8LinearMethod implements LinearMethod {
  constructor(private readonly options: Int8Options) {}

  createWeights(spec: LinearWeightSpec): LinearWeights {
    return new Int8Weights(spec, this.options);
  }
}

/**
 * weight int8 [out, in], weight_scale [out, groups], or one per part. A float32 model multiplies exactly; with 16 bits
 * activations are rounded per token, on the CPU always. Static scales of activations are not used: those of the token are finer.
 */
class Int8Weights implements LinearWeights {
  readonly tensors: Record<string, Parameter>;
  private readonly dynamicActivation: boolean;
  private readonly shape: IntShape;

  constructor(spec: LinearWeightSpec, { groupSize, activation }: Int8Options) {
    const { prefix } = spec;
    const { rows, inputs, groups, storedGroups, storedOf } = (this.shape = intShape(spec, { bits: 8, groupSize, hasZeros: false }));
    const isSpread = storedOf !== null;
    this.dynamicActivation = spec.dtype !== 'float32' && (spec.deviceType === 'cpu' || activation !== 'none');
    const cut = groupSize === -1 ? { scalarFills: true } : { inputDim: 1, inputUnit: groupSize, inputsCovered: true };
    const stored = new Parameter(`${prefix}.weight_scale`, [rows, storedGroups], 'float32', {
      role: isSpread ? 'source' : 'weight',
      sources: spec.sources('weight_scale'),
      weightLoader: spec.loader({ outputDim: 0, ...cut }),
      dummy: (tensor) => fill(tensor, 1 / (RANDOM_INT8_RMS * Math.sqrt(inputs))),
    });
    this.tensors = {
      weight: new Parameter(`${prefix}.weight`, [rows, inputs], 'int8', { sources: spec.sources('weight'), weightLoader: spec.loader({ outputDim: 0, inputDim: 1 }) }),
      scales: isSpread ? new Parameter(`${prefix}.scales`, [rows, groups], 'float32', { role: 'derived' }) : stored,
    };
    if (isSpread) this.tensors.scaleSource = stored;
    if (activation !== 'static') return;
    this.tensors.inputScaleSource = new Parameter(`${prefix}.input_scale`, [spec.outputPartitionSizes.length], 'float32', {
      sources: spec.sources('input_scale'),
      weightLoader: spec.loader({ perPart: true }),
      role: 'source',
    });
  }

  processAfterLoading(run: RunOps): void {
    const { weight, scales, scaleSource } = this.tensors;
    if (scaleSource) {
      scales!.allocate(scaleSource.tensor.device);
      scales!.materialize();
      run(() => spreadGroups(scales!.tensor, scaleSource.tensor, this.shape));
    }
    if (canPackBytes(weight!.tensor.size(1))) run(() => packInt8(weight!.tensor, scales!.tensor));
  }

  apply(x: Tensor, bias: Tensor | null, outputDtype?: 'float32'): Tensor {
    return linearInt8(x, this.tensors.weight!.tensor, this.tensors.scales!.tensor, bias, this.dynamicActivation, outputDtype);
  }
}
