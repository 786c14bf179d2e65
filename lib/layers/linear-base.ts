import type { VllmConfig } from '../config/vllm';
import { Module } from '../nn/module';
import { Parameter, type LoadedWeight, type WeightLoader, type WeightSource } from '../nn/parameter';
import { quantMethodOf, type LinearWeights, type QuantizableKind } from '../quantization/method';
import type { Tensor } from '../tensor/tensor';
import { KvasirError } from '../utils/errors';
import type { Span } from './shard';

export interface LinearOptions {
  readonly inputSize: number;
  readonly outputSize: number;
  /** Default true, as in vLLM; most language models pass false. */
  readonly bias?: boolean;
  /** The bias is not added: whoever called adds `layer.bias` (fusion with what follows). */
  readonly skipBiasAdd?: boolean;
}

interface Partition {
  readonly inputSizePerPartition: number;
  readonly outputPartitionSizes: readonly number[];
  readonly inputSize: number;
  readonly outputSize: number;
}

/** The checkpoint tensor `name` of a layer that is not fused. */
export function ownSource(prefix: string, tensorName: string): readonly WeightSource[] {
  return [{ name: `${prefix}.${tensorName}`, shardId: null }];
}

/**
 * This rank's span of a checkpoint tensor along `dim`, which must have `whole` elements there: a larger tensor would be cut unnoticed.
 * @throws KvasirError ERR_KVASIR_WEIGHTS
 */
export function takeSpan(param: Parameter, loaded: LoadedWeight, dim: number, whole: number, span: Span): LoadedWeight {
  if (loaded.shape[dim] !== whole)
    throw new KvasirError('ERR_KVASIR_WEIGHTS', `${loaded.name} has shape [${loaded.shape.join(', ')}], expected ${whole} along dimension ${dim} for ${param.name}`);
  return loaded.narrow(dim, span.start, span.size);
}

/** Linear layers: y = x W^T + b, with W in whatever format the checkpoint's quantization gives this prefix. */
export abstract class LinearBase extends Module {
  readonly bias: Parameter | null = null;
  readonly skipBiasAdd: boolean;
  /** Parameters of the weight by name: `weight`, or what a quantization method keeps instead. */
  readonly params: LinearWeights['tensors'];
  private readonly multiply: LinearWeights['apply'];

  protected constructor(
    protected readonly vllmConfig: VllmConfig,
    options: LinearOptions,
    partition: Partition,
    prefix: string,
    sources: (tensorName: string) => readonly WeightSource[],
    loaders: { weight: WeightLoader; bias: WeightLoader },
    kind: QuantizableKind = 'linear',
    tiedWeight: Parameter | null = null,
  ) {
    super(prefix);
    this.skipBiasAdd = options.skipBiasAdd ?? false;
    const dtype = vllmConfig.model.dtype;
    const rows = partition.outputPartitionSizes.reduce((a, b) => a + b, 0);
    const method = quantMethodOf(vllmConfig, kind, prefix);
    if (tiedWeight && !method.tieWeights) throw new KvasirError('ERR_KVASIR_LAYER', `${prefix}: its quantization method cannot share the weight ${tiedWeight.name}`);
    const spec = { prefix, dtype, ...partition, weightLoader: loaders.weight, sources };
    const weights = tiedWeight && method.tieWeights ? method.tieWeights(tiedWeight, rows) : method.createWeights(spec);
    this.multiply = weights.apply.bind(weights);
    this.params = weights.tensors;
    if (options.bias ?? true)
      this.bias = new Parameter(`${prefix}.bias`, [rows], dtype, { sources: sources('bias'), weightLoader: loaders.bias, outputDim: 0 });
  }

  /** The `weight` parameter of an unquantized layer. */
  get weight(): Parameter | null {
    const weight = this.params.weight;
    return weight instanceof Parameter ? weight : null;
  }

  protected apply(x: Tensor, bias: Parameter | null, outputDtype?: 'float32'): Tensor {
    return this.multiply(x, bias && !this.skipBiasAdd ? bias.tensor : null, outputDtype);
  }
}
