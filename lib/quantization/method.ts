import type { ConstantBuffer, Parameter, WeightLoader, WeightSource } from '../nn/parameter';
import type { ComputeDType, DeviceType, VllmConfig } from '../config/vllm';
import type { Tensor } from '../tensor/tensor';
import { KvasirError } from '../utils/errors';

/**
 * How a parameter of a linear layer lies relative to the weight [out, in]: which dimension of the checkpoint's tensor is cut
 * with the outputs or inputs, and how many outputs or inputs one element stands for. Without a dimension it is not cut.
 */
export interface ParameterLayout {
  readonly outputDim?: number;
  /** 8 for nibbles packed into an int32; 128 for the rows of a block scale (the last one may be cut short). Default 1. */
  readonly outputUnit?: number;
  readonly inputDim?: number;
  /** Default 1. */
  readonly inputUnit?: number;
  /** A rank's inputs may begin and end inside an element: it takes every element that it has an input of. */
  readonly inputsCovered?: boolean;
  /** Row i of the parameter belongs to logical matrix i; one tensor for a layer that is fused on disk fills all rows. */
  readonly perPart?: boolean;
  /** A tensor of one element stands for every output of its part (a per-tensor scale as one scale per row). */
  readonly scalarFills?: boolean;
}

/** What a linear layer tells the method that holds its weights (vllm LinearMethodBase.create_weights). */
export interface LinearWeightSpec {
  /** Full name of the layer. */
  readonly prefix: string;
  readonly deviceType: DeviceType;
  /** Input width on this rank. */
  readonly inputSizePerPartition: number;
  /** The first of them, of all inputs of the layer. */
  readonly inputStart: number;
  /** Output widths on this rank, one per logical matrix of a fused layer. */
  readonly outputPartitionSizes: readonly number[];
  /** Whole-model sizes. */
  readonly inputSize: number;
  readonly outputSize: number;
  readonly dtype: ComputeDType;
  /** The model wants a bias here. */
  readonly hasBias: boolean;
  /** Loads this rank's part of a tensor with this layout: the layer's shard math. */
  loader(layout: ParameterLayout): WeightLoader;
  /** Checkpoint names of a tensor of the layer, e.g. of its `weight`: one for itself, one per part of a fused layer. */
  sources(tensorName: string): readonly WeightSource[];
}

/** The weights of one linear layer in one format: parameters, and how to multiply by them. */
export interface LinearWeights {
  /** Parameters and buffers by name; the layer takes them as its own, also those that are exchanged later. */
  readonly tensors: Readonly<Record<string, Parameter | ConstantBuffer>>;
  /** x [numTokens, inputSizePerPartition] -> [numTokens, sum of outputPartitionSizes], with bias [out] or null. */
  apply(x: Tensor, bias: Tensor | null, outputDtype?: 'float32'): Tensor;
  /**
   * Runs once when every tensor was read (vllm process_weights_after_loading): turns what the checkpoint holds into what
   * `apply` uses. Sources are released afterwards.
   * @param run ops run inside of it
   */
  processAfterLoading?(run: RunOps): void | Promise<void>;
}

/** Runs synchronous code that calls ops; their memory lives until the processing is done. */
export type RunOps = <T>(work: () => T) => T;

/** Creates, loads and applies the weights of linear layers in one format. */
export interface LinearMethod {
  /** The weights stay in the model's dtype: layers without quantized kernels go by this. */
  readonly fullPrecision?: boolean;
  /** Weights stay in full precision: what a layer without quantized kernels needs to know. */
  readonly isUnquantized?: boolean;
  createWeights(spec: LinearWeightSpec): LinearWeights;
  /** Uses the weight of another layer (an LM head tied to the embedding), giving `rows` output features. */
  tieWeights?(weight: Parameter, rows: number): LinearWeights;
}

/** The layers that ask for a method. */
export type QuantizableKind = 'linear' | 'lm_head' | 'embedding' | 'moe' | 'attention';

/** What a method is asked for. */
export interface QuantizableLayer {
  readonly kind: QuantizableKind;
  /** 'QKVParallelLinear': targets of compressed-tensors match on it. */
  readonly className: string;
  /** Full checkpoint names of the layers that are fused in it; [prefix] when it is not fused. */
  readonly parts: readonly string[];
}

/** How a checkpoint is quantized; answers per layer prefix (vllm QuantizationConfig). */
export interface QuantizationConfig {
  readonly name: string;
  /** The KV cache that the checkpoint is made for; undefined: one of the model's dtype. */
  readonly kvCacheDtype?: 'float8_e4m3';
  /** The method of a layer; the unquantized one for layers that the checkpoint keeps in full precision. */
  getQuantMethod(layer: QuantizableLayer, prefix: string): LinearMethod | null;
  /**
   * Called with the prefixes of all modules when the model is built.
   * @throws KvasirError ERR_KVASIR_QUANTIZATION for an entry of a list of layers that names none of them
   */
  checkModel?(modulePrefixes: Iterable<string>): void;
}

/**
 * What the model's quantization says of a layer.
 * @throws KvasirError ERR_KVASIR_LAYER when it has no method for the layer
 */
export function quantMethodOf(vllmConfig: VllmConfig, layer: QuantizableLayer, prefix: string): LinearMethod {
  const config = vllmConfig.quantization as QuantizationConfig;
  const method = config.getQuantMethod(layer, prefix);
  if (!method) throw new KvasirError('ERR_KVASIR_LAYER', `quantization "${config.name}" has no method for the ${layer.kind} layer ${prefix}`);
  return method;
}
