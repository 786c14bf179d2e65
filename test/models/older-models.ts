/** Models as one would have written them for older versions of vLLM: the same weights, other forwards and layers. */
import type { AttentionMetadata } from '../../lib/attention/metadata';
import { alibiSlopes } from '../../lib/layers/alibi';
import { BloomAttention, BloomForCausalLM } from '../../lib/models/bloom';
import {
  Attention, attentionDims, gatedActivation, getRope, loadWeights, LogitsProcessor, makeLayers, maybePrefix, MergedColumnParallelLinear, Module,
  PagedAttentionWithALiBi, PagedAttentionWithRoPE,
  ParallelLMHead, QKVParallelLinear, readHfField, RMSNorm, RowParallelLinear, Sampler, split, VocabParallelEmbedding, type AttentionDims, type LoadedWeight,
  type RotaryEmbedding, type SamplerOutput, type Tensor, type VllmConfig,
} from '../../lib/index';

class Mlp extends Module {
  private readonly gateUp: MergedColumnParallelLinear;
  private readonly down: RowParallelLinear;
  private readonly act = gatedActivation('silu');

  constructor(config: VllmConfig, prefix: string) {
    super(prefix);
    const { hiddenSize, hfConfig } = config.model;
    const size = readHfField(hfConfig, 'intermediateSize')!;
    this.gateUp = new MergedColumnParallelLinear(config, { inputSize: hiddenSize, outputSizes: [size, size], bias: false }, `${prefix}.gate_up_proj`);
    this.down = new RowParallelLinear(config, { inputSize: size, outputSize: hiddenSize, bias: false }, `${prefix}.down_proj`);
  }

  forward(x: Tensor): Tensor {
    return this.down.forward(this.act(this.gateUp.forward(x)));
  }
}

type SelfAttention = Module & { forward(positions: Tensor, x: Tensor, kvCache: Tensor, attnMetadata: AttentionMetadata): Tensor };

/** Rotary embedding and attention as two modules, the cache as an argument (vLLM 0.3 to 0.8). */
class SeparateAttention extends Module {
  private readonly dims: AttentionDims;
  private readonly qkvProj: QKVParallelLinear;
  private readonly oProj: RowParallelLinear;
  private readonly rotary: RotaryEmbedding;
  private readonly attn: Attention;

  constructor(config: VllmConfig, prefix: string) {
    super(prefix);
    this.dims = attentionDims(config);
    this.qkvProj = new QKVParallelLinear(config, { ...this.dims, bias: false }, `${prefix}.qkv_proj`);
    this.oProj = new RowParallelLinear(config, { inputSize: this.dims.totalNumHeads * this.dims.headDim, outputSize: this.dims.hiddenSize, bias: false }, `${prefix}.o_proj`);
    this.rotary = getRope(config, { headDim: this.dims.headDim });
    this.attn = new Attention(config, this.dims, `${prefix}.attn`);
  }

  forward(positions: Tensor, x: Tensor, kvCache: Tensor, attnMetadata: AttentionMetadata): Tensor {
    const [q, k, v] = split(this.qkvProj.forward(x), this.dims.qkvSizes) as [Tensor, Tensor, Tensor];
    this.rotary.forward(positions, q, k);
    return this.oProj.forward(this.attn.forward(q, k, v, kvCache, attnMetadata));
  }
}

/** One layer that rotates and attends (vLLM 0.1 and 0.2). */
class RotatingAttention extends Module {
  private readonly dims: AttentionDims;
  private readonly qkvProj: QKVParallelLinear;
  private readonly oProj: RowParallelLinear;
  private readonly attn: PagedAttentionWithRoPE;

  constructor(config: VllmConfig, prefix: string) {
    super(prefix);
    this.dims = attentionDims(config);
    this.qkvProj = new QKVParallelLinear(config, { ...this.dims, bias: false }, `${prefix}.qkv_proj`);
    this.oProj = new RowParallelLinear(config, { inputSize: this.dims.totalNumHeads * this.dims.headDim, outputSize: this.dims.hiddenSize, bias: false }, `${prefix}.o_proj`);
    this.attn = new PagedAttentionWithRoPE(config, this.dims, `${prefix}.attn`);
  }

  forward(positions: Tensor, x: Tensor, kvCache: Tensor, inputMetadata: AttentionMetadata): Tensor {
    const [q, k, v] = split(this.qkvProj.forward(x), this.dims.qkvSizes) as [Tensor, Tensor, Tensor];
    return this.oProj.forward(this.attn.forward(positions, q, k, v, kvCache, inputMetadata));
  }
}

class Layer extends Module {
  private readonly norm1: RMSNorm;
  private readonly norm2: RMSNorm;
  private readonly mlp: Mlp;
  private readonly selfAttn: SelfAttention;

  constructor(config: VllmConfig, prefix: string, AttentionClass: new (config: VllmConfig, prefix: string) => SelfAttention) {
    super(prefix);
    const norm = { hiddenSize: config.model.hiddenSize, eps: readHfField(config.model.hfConfig, 'normEps')! };
    this.norm1 = new RMSNorm(config, norm, `${prefix}.input_layernorm`);
    this.norm2 = new RMSNorm(config, norm, `${prefix}.post_attention_layernorm`);
    this.mlp = new Mlp(config, `${prefix}.mlp`);
    this.selfAttn = new AttentionClass(config, `${prefix}.self_attn`);
  }

  forward(positions: Tensor, x: Tensor, kvCache: Tensor, attnMetadata: AttentionMetadata, residual: Tensor | null): [Tensor, Tensor] {
    const [forAttention, stream] = this.norm1.forwardResidual(x, residual);
    const [forMlp] = this.norm2.forwardResidual(this.selfAttn.forward(positions, forAttention, kvCache, attnMetadata), stream);
    return [this.mlp.forward(forMlp), stream];
  }
}

abstract class OlderLlama extends Module {
  protected readonly embedTokens: VocabParallelEmbedding;
  protected readonly layers: Layer[];
  protected readonly norm: RMSNorm;
  protected readonly lmHead: ParallelLMHead;

  constructor(
    protected readonly config: VllmConfig,
    prefix: string,
    AttentionClass: new (config: VllmConfig, prefix: string) => SelfAttention,
  ) {
    super(prefix);
    const { hiddenSize, vocabSize, numHiddenLayers, hfConfig, tieWordEmbeddings } = config.model;
    const name = (rest: string): string => maybePrefix(prefix, rest);
    this.embedTokens = new VocabParallelEmbedding(config, { numEmbeddings: vocabSize, embeddingDim: hiddenSize }, name('model.embed_tokens'));
    this.layers = makeLayers(numHiddenLayers, (layerPrefix) => new Layer(config, layerPrefix, AttentionClass), name('model.layers'));
    this.norm = new RMSNorm(config, { hiddenSize, eps: readHfField(hfConfig, 'normEps')! }, name('model.norm'));
    const tiedTo = tieWordEmbeddings ? this.embedTokens : undefined;
    this.lmHead = new ParallelLMHead(config, { numEmbeddings: vocabSize, embeddingDim: hiddenSize, tiedTo }, name('lm_head'));
  }

  protected hidden(inputIds: Tensor, positions: Tensor, kvCaches: readonly Tensor[], attnMetadata: AttentionMetadata): Tensor {
    let x = this.embedTokens.forward(inputIds);
    let residual: Tensor | null = null;
    this.layers.forEach((layer, i) => {
      [x, residual] = layer.forward(positions, x, kvCaches[i]!, attnMetadata, residual);
    });
    return this.norm.forwardResidual(x, residual)[0];
  }

  loadWeights(weights: Iterable<LoadedWeight>): void {
    const { tieWordEmbeddings } = this.config.model;
    loadWeights(this, weights, { rename: (name) => (tieWordEmbeddings && name === 'lm_head.weight' ? null : name) });
  }
}

/** The forward of vLLM 0.3 to 0.8: caches and metadata are arguments, hidden states are returned. */
export class MiddleEraLlama extends OlderLlama {
  private readonly logitsProcessor: LogitsProcessor;

  constructor(config: VllmConfig, prefix: string) {
    super(config, prefix, SeparateAttention);
    this.logitsProcessor = new LogitsProcessor(config, config.model.vocabSize);
  }

  getInputEmbeddings(inputIds: Tensor): Tensor {
    return this.embedTokens.forward(inputIds);
  }

  forward(inputIds: Tensor, positions: Tensor, kvCaches: readonly Tensor[], attnMetadata: AttentionMetadata): Tensor {
    return this.hidden(inputIds, positions, kvCaches, attnMetadata);
  }

  computeLogits(hiddenStates: Tensor): Tensor {
    return this.logitsProcessor.forward(this.lmHead, hiddenStates);
  }
}

/** The forward of vLLM 0.1 and 0.2: the sampler is part of the model, and its output is returned. */
export class FirstEraLlama extends OlderLlama {
  private readonly sampler: Sampler;

  constructor(config: VllmConfig, prefix: string) {
    super(config, prefix, RotatingAttention);
    this.sampler = new Sampler(config, config.model.vocabSize);
  }

  forward(inputIds: Tensor, positions: Tensor, kvCaches: readonly Tensor[], inputMetadata: AttentionMetadata): SamplerOutput {
    return this.sampler.forward(this.lmHead, this.hidden(inputIds, positions, kvCaches, inputMetadata), inputMetadata);
  }
}

/** BLOOM with the attention layer of vLLM 0.1 to 0.3, which is given its slopes. */
export class FirstEraBloom extends BloomForCausalLM {
  constructor(config: VllmConfig, prefix: string) {
    super(config, prefix);
    const dims = attentionDims(config);
    for (const module of this.modules()) {
      if (!(module instanceof BloomAttention)) continue;
      const name = `${module.prefix}.attn`;
      config.staticForwardContext.delete(name); // its place is taken
      Object.assign(module, { attn: new PagedAttentionWithALiBi(config, dims, Array.from(alibiSlopes(dims.totalNumHeads)), name) });
    }
  }
}
