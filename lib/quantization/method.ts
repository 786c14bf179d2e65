import type { ConstantBuffer, Parameter, WeightLoader, WeightSource } from '../nn/parameter';
import type { ComputeDType, VllmConfig } from '../config/vllm';
import type { Tensor } from '../tensor/tensor';
import { KvasirError } from '../utils/errors';

/** What a linear layer tells the method that holds its weights (vllm LinearMethodBase.create_weights). */
export interface LinearWeightSpec {
  /** Full name of the layer. */
  readonly prefix: string;
  /** Input width on this rank. */
  readonly inputSizePerPartition: number;
  /** Output widths on this rank, one per logical matrix of a fused layer. */
  readonly outputPartitionSizes: readonly number[];
  /** Whole-model sizes. */
  readonly inputSize: number;
  readonly outputSize: number;
  readonly dtype: ComputeDType;
  /** Loader that knows the layer's shard math. */
  readonly weightLoader: WeightLoader;
  /** Checkpoint names of a tensor of the layer, e.g. of its `weight`: one for itself, one per part of a fused layer. */
  sources(tensorName: string): readonly WeightSource[];
}

/** The weights of one linear layer in one format: parameters, and how to multiply by them. */
export interface LinearWeights {
  /** Parameters and buffers by name; the layer takes them as its own. */
  readonly tensors: Readonly<Record<string, Parameter | ConstantBuffer>>;
  /** x [numTokens, inputSizePerPartition] -> [numTokens, sum of outputPartitionSizes], with bias [out] or null. */
  apply(x: Tensor, bias: Tensor | null, outputDtype?: 'float32'): Tensor;
}

/** Creates, loads and applies the weights of linear layers in one format. */
export interface LinearMethod {
  createWeights(spec: LinearWeightSpec): LinearWeights;
  /** Uses the weight of another layer (an LM head tied to the embedding), giving `rows` output features. */
  tieWeights?(weight: Parameter, rows: number): LinearWeights;
}

/** The layers that ask for a method. */
export type QuantizableKind = 'linear' | 'lm_head' | 'embedding' | 'attention';

/** How a checkpoint is quantized; answers per layer prefix (vllm QuantizationConfig). */
export interface QuantizationConfig {
  readonly name: string;
  /** The method of a layer; the unquantized one for layers that the checkpoint keeps in full precision. */
  getQuantMethod(kind: QuantizableKind, prefix: string): LinearMethod | null;
}

/**
 * What the model's quantization says of a layer.
 * @throws KvasirError ERR_KVASIR_LAYER when it has no method for the layer
 */
export function quantMethodOf(vllmConfig: VllmConfig, kind: QuantizableKind, prefix: string): LinearMethod {
  const config = vllmConfig.quantization as QuantizationConfig;
  const method = config.getQuantMethod(kind, prefix);
  if (!method) throw new KvasirError('ERR_KVASIR_LAYER', `quantization "${config.name}" has no method for the ${kind} layer ${prefix}`);
  return method;
}
