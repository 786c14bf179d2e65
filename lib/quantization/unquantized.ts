import { Parameter } from '../nn/parameter';
import { linear, packedRowPadding, packLinear } from '../ops/gemm';
import type { LinearMethod, LinearWeights, LinearWeightSpec } from './method';

/** Weights in the model's dtype, [out, in], packed for the backend when they are complete (vllm UnquantizedLinearMethod). */
export class UnquantizedLinearMethod implements LinearMethod {
  createWeights(spec: LinearWeightSpec): LinearWeights {
    const rows = spec.outputPartitionSizes.reduce((a, b) => a + b, 0);
    const weight = new Parameter(`${spec.prefix}.weight`, [rows, spec.inputSizePerPartition], spec.dtype, {
      sources: spec.sources('weight'),
      weightLoader: spec.weightLoader,
      outputDim: 0,
      inputDim: 1,
      paddedRows: packedRowPadding(rows),
      onLoaded: (param) => packLinear(param.tensor),
    });
    return this.weightsOf(weight, rows);
  }

  tieWeights(weight: Parameter, rows: number): LinearWeights {
    weight.whenLoaded((param) => packLinear(param.tensor));
    return this.weightsOf(weight, rows);
  }

  private weightsOf(weight: Parameter, rows: number): LinearWeights {
    return { tensors: { weight }, apply: (x, bias, outputDtype) => linear(x, weight.tensor, bias, rows, outputDtype) };
  }
}
