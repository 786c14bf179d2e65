import type { Parameter } from '../nn/parameter';
import { repackInt4 } from '../ops/quant';
import type { Tensor } from '../tensor/tensor';
import { checkPacking } from './gptq';
import { IntWeights } from './int-weights';
import type { LinearMethod, LinearWeights, LinearWeightSpec, RunOps } from './method';

/** Numbers in a word. */
const PACK = 8;

/** Linear layers in AWQ's "gemm" format (Lin et al., 2023; AutoAWQ): 4 bits with zero points. */
export class AwqLinearMethod implements LinearMethod {
  /** @param groupSize -1: one group */
  constructor(private readonly groupSize: number) {}

  createWeights(spec: LinearWeightSpec): LinearWeights {
    return new AwqWeights(spec, this.groupSize);
  }
}

/** qweight [in, out / 8], qzeros [groups, out / 8], scales [groups, out]. */
class AwqWeights implements LinearWeights {
  readonly tensors: Record<string, Parameter>;
  private readonly ints: IntWeights;
  private readonly words: Parameter;
  private readonly zeros: Parameter;
  private readonly scales: Parameter;

  constructor(spec: LinearWeightSpec, groupSize: number) {
    const ints = (this.ints = new IntWeights(spec, { bits: 4, groupSize, hasZeros: true }));
    this.tensors = ints.tensors;
    const { rows, inputs, storedGroups } = ints.shape;
    checkPacking(spec, PACK);
    const cut = groupSize === -1 ? {} : { inputDim: 0, inputUnit: groupSize, inputsCovered: true };
    this.words = ints.source('qweight', [inputs, rows / PACK], 'int32', spec.loader({ outputDim: 1, outputUnit: PACK, inputDim: 0 }));
    this.zeros = ints.source('qzeros', [storedGroups, rows / PACK], 'int32', spec.loader({ outputDim: 1, outputUnit: PACK, ...cut }));
    this.scales = ints.scaleSource('scales', [storedGroups, rows], spec.loader({ outputDim: 1, ...cut }));
  }

  processAfterLoading(run: RunOps): void {
    const { ints, words, zeros } = this;
    run(() => {
      repackInt4(ints.take('weight', words), words.tensor, 'awq');
      ints.takeZeros(zeros, 'awq');
      ints.takeScales(this.scales, true);
      ints.pack();
    });
  }

  apply(x: Tensor, bias: Tensor | null, outputDtype?: 'float32'): Tensor {
    return this.ints.apply(x, bias, outputDtype);
  }
}
