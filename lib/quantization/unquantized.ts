import { Parameter } from '../nn/parameter';
import { canPackLinear, linear, PACK_ROWS, packLinear } from '../ops/gemm';
import type { Tensor } from '../tensor/tensor';
import { narrow } from '../tensor/views';
import type { LinearMethod, LinearWeights, LinearWeightSpec } from './method';

/** Weights in the model's dtype, [out, in], packed for the backend when they are complete (vllm UnquantizedLinearMethod). */
export class UnquantizedLinearMethod implements LinearMethod {
  readonly fullPrecision = true;

  readonly isUnquantized = true;

  createWeights(spec: LinearWeightSpec): LinearWeights {
    const rows = spec.outputPartitionSizes.reduce((a, b) => a + b, 0);
    const weight = new Parameter(`${spec.prefix}.weight`, [rows, spec.inputSizePerPartition], spec.dtype, {
      sources: spec.sources('weight'),
      weightLoader: spec.loader({ outputDim: 0, inputDim: 1 }),
      outputDim: 0,
      inputDim: 1,
      paddedRows: canPackLinear(spec.dtype, spec.inputSizePerPartition) ? -rows & (PACK_ROWS - 1) : 0,
      onLoaded: pack,
    });
    return this.weightsOf(weight, rows);
  }

  tieWeights(weight: Parameter, rows: number): LinearWeights {
    weight.whenLoaded(pack);
    return this.weightsOf(weight, rows);
  }

  private weightsOf(weight: Parameter, rows: number): LinearWeights {
    return { tensors: { weight }, apply: (x, bias, outputDtype) => linear(x, rowsOf(weight, rows), bias, rows, outputDtype) };
  }
}

/** The weight of a multiplication with `rows` outputs: a packed one may have more, a plain one (tied, padded vocabulary) may not. */
function rowsOf({ tensor }: Parameter, rows: number): Tensor {
  return tensor.packed || tensor.size(0) === rows ? tensor : narrow(tensor, 0, 0, rows);
}

/** Rearranges a complete weight for the kernels, where its shape allows. */
function pack({ tensor }: Parameter): void {
  if (canPackLinear(tensor.dtype, tensor.size(1)) && tensor.size(0) % PACK_ROWS === 0) packLinear(tensor);
}
