import type { Parameter } from '../nn/parameter';
import { fill } from '../ops/copy';
import { repackInt4, repackInt8, type PackFormat } from '../ops/quant';
import type { Tensor } from '../tensor/tensor';
import { quantizationError, unsupported } from './config-fields';
import { IntWeights } from './int-weights';
import type { LinearMethod, LinearWeights, LinearWeightSpec, RunOps } from './method';

export interface GptqOptions {
  readonly bits: 4 | 8;
  /** -1: one group. */
  readonly groupSize: number;
  /** Inputs were quantized in the order of their importance. */
  readonly descAct: boolean;
  readonly sym: boolean;
  /** v1 stores zero points less one. */
  readonly version: 1 | 2;
}

/** Linear layers in the format of GPTQ (Frantar et al., 2022; AutoGPTQ and GPTQModel). */
export class GptqLinearMethod implements LinearMethod {
  constructor(private readonly options: GptqOptions) {}

  createWeights(spec: LinearWeightSpec): LinearWeights {
    const { groupSize, descAct } = this.options;
    return new GptqWeights(spec, this.options, descAct && groupSize !== -1);
  }
}

/** qweight [in / pack, out], qzeros [groups, out / pack], scales [groups, out], g_idx [in]; pack is 8 (4 bits) or 4 (8 bits). */
class GptqWeights implements LinearWeights {
  readonly tensors: Record<string, Parameter>;
  private readonly ints: IntWeights;
  private readonly words: Parameter;
  private readonly zeros: Parameter;
  private readonly scales: Parameter;
  private readonly groupIndex: Parameter;
  private readonly extraBias: Parameter | null;
  private readonly format: Exclude<PackFormat, 'awq'>;
  private readonly groupSize: number;

  constructor(
    private readonly spec: LinearWeightSpec,
    private readonly options: GptqOptions,
    private readonly ordered: boolean,
  ) {
    const { bits, groupSize, sym, version } = options;
    const pack = 32 / bits;
    this.format = version === 1 ? 'gptq' : 'gptq_v2';
    this.ints = new IntWeights(spec, { bits, groupSize, hasZeros: !sym, ordered });
    this.tensors = this.ints.tensors;
    const { rows, inputs, storedGroups } = this.ints.shape;
    checkPacking(spec, pack);
    this.groupSize = groupSize === -1 ? inputs : groupSize;
    const cut = groupSize === -1 || ordered ? {} : { inputDim: 0, inputUnit: groupSize, inputsCovered: true };
    const { ints } = this;
    this.words = ints.source('qweight', [inputs / pack, rows], 'int32', spec.loader({ outputDim: 1, inputDim: 0, inputUnit: pack }));
    this.zeros = ints.source('qzeros', [storedGroups, rows / pack], 'int32', spec.loader({ outputDim: 1, outputUnit: pack, ...cut }), { dummy: (t) => fill(t, zeroWord(options)) });
    this.scales = ints.scaleSource('scales', [storedGroups, rows], spec.loader({ outputDim: 1, ...cut }));
    const dummy = (t: Tensor): void => t.write(Int32Array.from({ length: t.numel }, (_, i) => Math.floor((i % inputs) / this.groupSize)));
    const parts = spec.outputPartitionSizes.length;
    this.groupIndex = ints.source('g_idx', [parts, inputs], 'int32', spec.loader({ perPart: true, inputDim: 0 }), { optional: !ordered, dummy });
    // Some exporters write a bias of zeros for every layer.
    this.extraBias = spec.hasBias ? null : ints.source('bias', [rows], 'float32', spec.loader({ outputDim: 0 }), { optional: true });
  }

  async processAfterLoading(run: RunOps): Promise<void> {
    const { ints, zeros, format } = this;
    const { bits, sym } = this.options;
    if (this.extraBias?.isComplete) checkNoBias(this.spec.prefix, (await this.extraBias.tensor.read()) as Float32Array);
    if (sym) checkSymmetric(this.spec.prefix, this.options, (await zeros.tensor.read()) as Int32Array);
    const words = this.ordered ? await ints.orderInputs(this.groupIndex, this.words, false) : this.words;
    run(() => {
      if (bits === 4) repackInt4(ints.take('weight', words), words.tensor, format);
      else repackInt8(ints.take('weight', words), words.tensor, format);
      if (!sym) ints.takeZeros(zeros, format);
      ints.takeScales(this.scales, true);
      ints.pack();
    });
  }

  apply(x: Tensor, bias: Tensor | null, outputDtype?: 'float32'): Tensor {
    return this.ints.apply(x, bias, outputDtype);
  }
}

/** Outputs of every part must fill whole words where they are packed. */
export function checkPacking({ prefix, outputPartitionSizes }: LinearWeightSpec, pack: number): void {
  const odd = outputPartitionSizes.find((size) => size % pack !== 0);
  if (odd !== undefined) throw unsupported(`${prefix}: a part of ${odd} outputs does not fill words of ${pack} packed numbers`);
}

/** A word of zero points as a symmetric checkpoint has them. */
function zeroWord({ bits, version }: GptqOptions): number {
  if (bits === 4) return version === 1 ? 0x77777777 : 0x88888888 | 0;
  return version === 1 ? 0x7f7f7f7f : 0x80808080 | 0;
}

/** Both versions are accepted: tools disagree on which one they call by which name, and for a symmetric checkpoint it makes no difference. */
function checkSymmetric(prefix: string, options: GptqOptions, words: Int32Array): void {
  const allowed = [zeroWord({ ...options, version: 1 }), zeroWord({ ...options, version: 2 })];
  if (words.every((word) => word === allowed[0]) || words.every((word) => word === allowed[1])) return;
  throw quantizationError(`${prefix}: quantization_config says sym, but qzeros holds other zero points than ${options.bits === 4 ? 8 : 128}`);
}

function checkNoBias(prefix: string, bias: Float32Array): void {
  if (bias.some((value) => value !== 0)) throw quantizationError(`${prefix}: the checkpoint has a bias that is not zero, but the model has none there`);
}
