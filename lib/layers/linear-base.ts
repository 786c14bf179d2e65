import type { VllmConfig } from '../config/vllm';
import { Module } from '../nn/module';
import { Parameter, type WeightSource } from '../nn/parameter';
import { quantMethodOf, type LinearWeights, type LinearWeightSpec, type QuantizableKind, type QuantizableLayer } from '../quantization/method';
import { inScope, TemporaryScope } from '../tensor/scope';
import type { Tensor } from '../tensor/tensor';
import { KvasirError } from '../utils/errors';
import { shardLoader, type LinearShards } from './linear-loader';

export interface LinearOptions {
  readonly inputSize: number;
  readonly outputSize: number;
  /** Default true, as in vLLM; most language models pass false. */
  readonly bias?: boolean;
  /** The bias is not added: whoever called adds `layer.bias` (fusion with what follows). */
  readonly skipBiasAdd?: boolean;
}

/** What a subclass says of itself. */
export interface LinearParts {
  readonly shards: LinearShards;
  /** Full checkpoint names of the fused layers; default: the layer itself. */
  readonly names?: readonly string[];
  readonly kind?: QuantizableKind;
  /** The layer uses this weight of an embedding instead of its own. */
  readonly tiedWeight?: Parameter;
}

/** Linear layers: y = x W^T + b, with W in whatever format the checkpoint's quantization gives this prefix. */
export abstract class LinearBase extends Module {
  readonly bias: Parameter | null = null;
  readonly skipBiasAdd: boolean;
  /** Parameters of the weight by name: `weight`, or what a quantization method keeps besides or instead. */
  readonly params: LinearWeights['tensors'];
  /** Not enumerable, so that the tree of modules has each tensor once: under `params`. */
  readonly #weights: LinearWeights;

  protected constructor(
    protected readonly vllmConfig: VllmConfig,
    options: LinearOptions,
    parts: LinearParts,
    prefix: string,
  ) {
    super(prefix);
    this.skipBiasAdd = options.skipBiasAdd ?? false;
    const spec = this.weightSpec(options, parts);
    this.#weights = this.createWeights(spec, parts);
    this.params = this.#weights.tensors;
    if (!spec.hasBias) return;
    const rows = spec.outputPartitionSizes.reduce((a, b) => a + b, 0);
    this.bias = new Parameter(`${prefix}.bias`, [rows], spec.dtype, { sources: spec.sources('bias'), weightLoader: spec.loader({ outputDim: 0 }), outputDim: 0 });
  }

  /** The `weight` parameter: [out, in], or what a quantization method packs it into. */
  get weight(): Parameter | null {
    const weight = this.params.weight;
    return weight instanceof Parameter ? weight : null;
  }

  override async processWeightsAfterLoading(): Promise<void> {
    if (!this.#weights.processAfterLoading) return;
    const params = this.params as Record<string, LinearWeights['tensors'][string]>;
    const device = Object.values(params).find((p) => p.tensor.storage)?.tensor.device;
    if (!device) throw new KvasirError('ERR_KVASIR_DISPOSED', `${this.prefix} has no weights in memory to process`);
    const scope = new TemporaryScope(device);
    try {
      await this.#weights.processAfterLoading((work) => inScope(scope, work));
      for (const [name, param] of Object.entries(params)) {
        if (!(param instanceof Parameter) || param.role !== 'source') continue;
        param.dispose();
        delete params[name];
      }
      await device.synchronize(); // one layer at a time: the memory of its sources is free before the next one takes more
    } finally {
      scope.dispose();
    }
  }

  protected apply(x: Tensor, bias: Parameter | null, outputDtype?: 'float32'): Tensor {
    return this.#weights.apply(x, bias && !this.skipBiasAdd ? bias.tensor : null, outputDtype);
  }

  private weightSpec(options: LinearOptions, { shards, names }: LinearParts): LinearWeightSpec {
    const { prefix, vllmConfig } = this;
    const own = (tensorName: string): WeightSource => ({ name: `${prefix}.${tensorName}`, shardId: null });
    const ofParts = (tensorName: string): WeightSource[] => (names ?? []).map((name, i) => ({ name: `${name}.${tensorName}`, shardId: shards.parts[i]!.id }));
    return {
      prefix,
      deviceType: vllmConfig.device.device,
      dtype: vllmConfig.model.dtype,
      inputSizePerPartition: shards.input.span.size,
      inputStart: shards.input.span.start,
      outputPartitionSizes: shards.parts.map((part) => part.dest.size),
      inputSize: shards.input.whole,
      outputSize: options.outputSize,
      hasBias: options.bias ?? true,
      loader: (layout) => shardLoader(prefix, shards, layout),
      // Parts that are named like the layer lie in one tensor.
      sources: (tensorName) => [...ofParts(tensorName).filter(({ name }) => name !== own(tensorName).name), own(tensorName)],
    };
  }

  /** A head that shares the embedding's weight is what the embedding is, which no method quantizes. */
  private createWeights(spec: LinearWeightSpec, { names, kind = 'linear', tiedWeight }: LinearParts): LinearWeights {
    const layer: QuantizableLayer = { kind: tiedWeight ? 'embedding' : kind, className: this.constructor.name, parts: names ?? [this.prefix] };
    const method = quantMethodOf(this.vllmConfig, layer, this.prefix);
    if (!tiedWeight) return method.createWeights(spec);
    if (!method.tieWeights) throw new KvasirError('ERR_KVASIR_LAYER', `${this.prefix}: its quantization method cannot share the weight ${tiedWeight.name}`);
    return method.tieWeights(tiedWeight, spec.outputPartitionSizes[0]!);
  }
}
