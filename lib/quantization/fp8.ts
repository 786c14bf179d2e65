import { Parameter, type WeightLoader } from '../nn/parameter';
import { fill } from '../ops/copy';
import { canPackBytes, linearFp8, packFp8, quantizeFp8, type Fp8Activation, type Fp8Blocks } from '../ops/quant';
import { inScope, TemporaryScope } from '../tensor/scope';
import type { Tensor } from '../tensor/tensor';
import { quantizationError, unsupported } from './config-fields';
import type { LinearMethod, LinearWeights, LinearWeightSpec, RunOps } from './method';

export interface Fp8Options {
  /** Outputs and inputs that share a scale; null: one scale per part or per output. */
  readonly block: Fp8Blocks | null;
  /** Name of the scales in the checkpoint; they multiply, whatever it says. */
  readonly scaleName: 'weight_scale' | 'weight_scale_inv';
  /** How the checkpoint wants activations rounded where the device multiplies in fp8. */
  readonly activation: 'none' | 'dynamic' | 'static';
}

/** Size of random float8_e4m3 bytes below 2, for dummy weights. */
const RANDOM_BYTES_RMS = 0.6;

/** Linear layers with float8_e4m3 weights in the checkpoint (vllm Fp8LinearMethod). */
export class Fp8LinearMethod implements LinearMethod {
  constructor(private readonly options: Fp8Options) {}

  createWeights(spec: LinearWeightSpec): LinearWeights {
    if (this.options.block) checkBlocks(spec, this.options.block);
    return new Fp8Weights(spec, this.options);
  }
}

class Fp8Weights implements LinearWeights {
  readonly tensors: Record<string, Parameter>;
  private readonly blocks: Fp8Blocks;
  private activation: Fp8Activation;
  private readonly inputScale: Parameter | null = null;

  constructor(
    private readonly spec: LinearWeightSpec,
    { block, scaleName, activation }: Fp8Options,
  ) {
    const { prefix, inputSizePerPartition: inputs } = spec;
    const rows = spec.outputPartitionSizes.reduce((a, b) => a + b, 0);
    this.blocks = block ?? { blockN: 1, blockK: inputs };
    const { blockN, blockK } = this.blocks;
    this.activation = activation === 'dynamic' ? 'dynamic' : 'none';
    const options = (name: string, weightLoader: WeightLoader) => ({ sources: spec.sources(name), weightLoader });
    const weight = new Parameter(`${prefix}.weight`, [rows, inputs], 'float8_e4m3', options('weight', spec.loader({ outputDim: 0, inputDim: 1 })));
    const layout = block ? { outputDim: 0, outputUnit: blockN, inputDim: 1, inputUnit: blockK } : { outputDim: 0, scalarFills: true };
    const scales = new Parameter(`${prefix}.${scaleName}`, [Math.ceil(rows / blockN), Math.ceil(inputs / blockK)], 'float32', {
      ...options(scaleName, spec.loader(layout)),
      dummy: (tensor) => fill(tensor, 1 / (RANDOM_BYTES_RMS * Math.sqrt(inputs))),
    });
    this.tensors = { weight, scales };
    if (activation !== 'static') return;
    this.inputScale = new Parameter(`${prefix}.input_scale`, [spec.outputPartitionSizes.length], 'float32', {
      ...options('input_scale', spec.loader({ perPart: true })),
      role: 'source',
    });
    this.tensors.inputScaleSource = this.inputScale;
  }

  async processAfterLoading(run: RunOps): Promise<void> {
    run(() => packBytes(this.tensors.weight!.tensor));
    if (!this.inputScale) return;
    // One input for all parts: the largest scale keeps every part's range.
    const staticScale = Math.max(...((await this.inputScale.tensor.read()) as Float32Array));
    if (!(staticScale > 0 && staticScale < Infinity)) throw quantizationError(`${this.spec.prefix}: input_scale must be above 0, received ${staticScale}`);
    this.activation = { staticScale };
  }

  apply(x: Tensor, bias: Tensor | null, outputDtype?: 'float32'): Tensor {
    const { weight, scales } = this.tensors;
    return linearFp8(x, weight!.tensor, scales!.tensor, bias, this.blocks, this.activation, outputDtype);
  }
}

/** Weights of an unquantized checkpoint rounded to fp8 row by row while they are loaded (option quantization: 'fp8'). */
export class OnlineFp8LinearMethod implements LinearMethod {
  createWeights(spec: LinearWeightSpec): LinearWeights {
    const { prefix, inputSizePerPartition: inputs, dtype } = spec;
    const rows = spec.outputPartitionSizes.reduce((a, b) => a + b, 0);
    const weight = new Parameter(`${prefix}.weight`, [rows, inputs], 'float8_e4m3', { role: 'derived' });
    const scales = new Parameter(`${prefix}.weight_scale`, [rows, 1], 'float32', { role: 'derived' });
    const weightSource = new Parameter(`${prefix}.weight`, [rows, inputs], dtype, {
      role: 'source',
      sources: spec.sources('weight'),
      weightLoader: spec.loader({ outputDim: 0, inputDim: 1 }),
      onLoaded: (source) => quantize(source, weight, scales),
    });
    const blocks = { blockN: 1, blockK: inputs };
    return {
      tensors: { weight, scales, weightSource },
      apply: (x, bias, outputDtype) => linearFp8(x, weight.tensor, scales.tensor, bias, blocks, 'dynamic', outputDtype),
      processAfterLoading: () => undefined, // done while loading; the layer now forgets the source
    };
  }
}

/** At once, so that never more than a few layers are in memory in both forms. */
function quantize(source: Parameter, weight: Parameter, scales: Parameter): void {
  const { device } = source.tensor;
  const scope = new TemporaryScope(device);
  for (const param of [weight, scales]) {
    param.allocate(device);
    param.materialize();
  }
  inScope(scope, () => {
    quantizeFp8(weight.tensor, scales.tensor, source.tensor);
    packBytes(weight.tensor);
  });
  scope.dispose();
  source.dispose();
}

function packBytes(weight: Tensor): void {
  if (canPackBytes(weight.size(1))) packFp8(weight);
}

/** Blocks may not lie across the border of two ranks, nor of two parts (vllm Fp8LinearMethod.create_weights). */
function checkBlocks(spec: LinearWeightSpec, { blockN, blockK }: Fp8Blocks): void {
  const { prefix, inputSizePerPartition: inputs, inputSize, outputPartitionSizes: parts, outputSize } = spec;
  if (inputs !== inputSize && inputs % blockK !== 0)
    throw quantizationError(`${prefix}: its ${inputs} inputs on one rank are not a multiple of ${blockK}, the inputs of a block of weight_block_size`);
  if (blockK % 4 !== 0 && blockK < inputs) throw unsupported(`${prefix}: blocks of ${blockK} inputs; expected a multiple of 4`);
  const isCut = parts.reduce((a, b) => a + b, 0) !== outputSize;
  const borders = isCut ? parts : parts.slice(0, -1); // the last block may be cut short by the end of the matrix
  const odd = borders.find((size) => size % blockN !== 0);
  if (odd !== undefined) throw quantizationError(`${prefix}: a part of ${odd} outputs is not a multiple of ${blockN}, the outputs of a block of weight_block_size`);
}
