/** Llama 1 to 3.x and the checkpoints that share its architecture (Touvron et al., 2023; vllm models/llama.py). */
import { readHfBoolean, readHfString, requireHfField } from '../config/hf-fields';
import type { VllmConfig } from '../config/vllm';
import { gatedActivation } from '../layers/activation';
import { Attention, attentionDims, layerWindow, type AttentionDims } from '../layers/attention';
import { RowParallelLinear } from '../layers/linear';
import { LogitsProcessor, type LogitsProcessorOptions } from '../layers/logits-processor';
import { MergedColumnParallelLinear, QKVParallelLinear } from '../layers/merged-linear';
import { RMSNorm } from '../layers/norm';
import { getRope, type RotaryEmbedding } from '../layers/rotary';
import { ParallelLMHead, VocabParallelEmbedding } from '../layers/vocab-embedding';
import type { IntermediateTensors } from '../nn/intermediate-tensors';
import { makeLayers, maybePrefix, Module } from '../nn/module';
import type { Tensor } from '../tensor/tensor';
import { split } from '../tensor/views';
import { CausalLM } from './causal-lm';

export class LlamaMLP extends Module {
  private readonly gateUpProj: MergedColumnParallelLinear;
  private readonly downProj: RowParallelLinear;
  private readonly act: (x: Tensor) => Tensor;

  constructor(vllmConfig: VllmConfig, prefix: string, hiddenAct = readHfString(vllmConfig.model.hfConfig, 'hidden_act') ?? 'silu') {
    super(prefix);
    const { hfConfig, hiddenSize } = vllmConfig.model;
    const size = requireHfField(hfConfig, 'intermediateSize');
    const bias = readHfBoolean(hfConfig, 'mlp_bias', false);
    this.gateUpProj = new MergedColumnParallelLinear(vllmConfig, { inputSize: hiddenSize, outputSizes: [size, size], bias }, `${prefix}.gate_up_proj`);
    this.downProj = new RowParallelLinear(vllmConfig, { inputSize: size, outputSize: hiddenSize, bias }, `${prefix}.down_proj`);
    this.act = gatedActivation(hiddenAct);
  }

  forward(x: Tensor): Tensor {
    return this.downProj.forward(this.act(this.gateUpProj.forward(x)));
  }
}

export interface LlamaAttentionOptions {
  /** Normalise every query and key head before rotation (Qwen 3). */
  readonly qkNorm?: boolean;
  /** Which projections have a bias, where config.json does not say it by attention_bias (Qwen 2). */
  readonly bias?: { readonly qkv: boolean; readonly o: boolean };
  /** Softmax scale; default 1 / sqrt(headDim). */
  readonly scale?: number;
  /** Attention logits become cap * tanh(logits / cap) (Gemma 2). */
  readonly logitsSoftCap?: number;
}

export class LlamaAttention extends Module {
  private readonly dims: AttentionDims;
  private readonly qkvProj: QKVParallelLinear;
  private readonly oProj: RowParallelLinear;
  private readonly rotaryEmb: RotaryEmbedding;
  private readonly attn: Attention;
  private readonly qNorm: RMSNorm | null = null;
  private readonly kNorm: RMSNorm | null = null;

  constructor(vllmConfig: VllmConfig, prefix: string, options: LlamaAttentionOptions = {}) {
    super(prefix);
    const dims = (this.dims = attentionDims(vllmConfig));
    const attentionBias = readHfBoolean(vllmConfig.model.hfConfig, 'attention_bias', false);
    const bias = options.bias ?? { qkv: attentionBias, o: attentionBias };
    this.qkvProj = new QKVParallelLinear(vllmConfig, { ...dims, bias: bias.qkv }, `${prefix}.qkv_proj`);
    this.oProj = new RowParallelLinear(
      vllmConfig,
      { inputSize: dims.totalNumHeads * dims.headDim, outputSize: dims.hiddenSize, bias: bias.o },
      `${prefix}.o_proj`,
    );
    this.rotaryEmb = getRope(vllmConfig, { headDim: dims.headDim });
    const { scale = dims.scale, logitsSoftCap } = options;
    this.attn = new Attention(vllmConfig, { ...dims, scale, logitsSoftCap, perLayerSlidingWindow: layerWindow(vllmConfig, prefix) }, `${prefix}.attn`);
    if (!options.qkNorm) return;
    const norm = { hiddenSize: dims.headDim, eps: requireHfField(vllmConfig.model.hfConfig, 'normEps') };
    this.qNorm = new RMSNorm(vllmConfig, norm, `${prefix}.q_norm`);
    this.kNorm = new RMSNorm(vllmConfig, norm, `${prefix}.k_norm`);
  }

  forward(positions: Tensor, hiddenStates: Tensor): Tensor {
    const [q, k, v] = split(this.qkvProj.forward(hiddenStates), this.dims.qkvSizes) as [Tensor, Tensor, Tensor];
    this.rotaryEmb.forward(positions, q, k, this.qNorm, this.kNorm);
    return this.oProj.forward(this.attn.forward(q, k, v));
  }
}

/** What a variant of the architecture puts into a decoder layer instead of Llama's own. */
export interface DecoderLayerParts {
  readonly selfAttn?: Module & { forward(positions: Tensor, hiddenStates: Tensor): Tensor };
  readonly mlp?: Module & { forward(x: Tensor): Tensor };
}

export class LlamaDecoderLayer extends Module {
  private readonly inputLayernorm: RMSNorm;
  private readonly selfAttn: NonNullable<DecoderLayerParts['selfAttn']>;
  private readonly postAttentionLayernorm: RMSNorm;
  private readonly mlp: NonNullable<DecoderLayerParts['mlp']>;

  constructor(vllmConfig: VllmConfig, prefix: string, parts: DecoderLayerParts = {}) {
    super(prefix);
    const { hfConfig, hiddenSize } = vllmConfig.model;
    const norm = { hiddenSize, eps: requireHfField(hfConfig, 'normEps') };
    this.inputLayernorm = new RMSNorm(vllmConfig, norm, `${prefix}.input_layernorm`);
    this.selfAttn = parts.selfAttn ?? new LlamaAttention(vllmConfig, `${prefix}.self_attn`);
    this.postAttentionLayernorm = new RMSNorm(vllmConfig, norm, `${prefix}.post_attention_layernorm`);
    this.mlp = parts.mlp ?? new LlamaMLP(vllmConfig, `${prefix}.mlp`);
  }

  /** hiddenStates is the output of the layer before, not yet added to residual. */
  forward(positions: Tensor, hiddenStates: Tensor, residual: Tensor | null): [hiddenStates: Tensor, residual: Tensor] {
    const [attnInput, stream] = this.inputLayernorm.forwardResidual(hiddenStates, residual);
    const attnOutput = this.selfAttn.forward(positions, attnInput);
    const [mlpInput] = this.postAttentionLayernorm.forwardResidual(attnOutput, stream);
    return [this.mlp.forward(mlpInput), stream];
  }
}

export interface DecoderLayer extends Module {
  forward(positions: Tensor, hiddenStates: Tensor, residual: Tensor | null): [hiddenStates: Tensor, residual: Tensor];
}

/** The class of a model's decoder layers. */
export type DecoderLayerClass = new (vllmConfig: VllmConfig, prefix: string) => DecoderLayer;

/** How a variant of the architecture differs outside of its decoder layers. */
export interface LlamaModelOptions {
  /** The last norm multiplies by (1 + weight) (Gemma). */
  readonly gemmaNorm?: boolean;
  /** Factor of the token embeddings (Gemma). */
  readonly embeddingScale?: number;
  /** What becomes of the logits (Gemma 2: a soft cap). */
  readonly logits?: LogitsProcessorOptions;
}

/** Token ids to hidden states; usable inside a composite model through `inputsEmbeds`. */
export class LlamaModel extends Module {
  readonly embedTokens: VocabParallelEmbedding;
  private readonly layers: DecoderLayer[];
  private readonly norm: RMSNorm;

  constructor(vllmConfig: VllmConfig, prefix: string, DecoderLayer: DecoderLayerClass = LlamaDecoderLayer, options: LlamaModelOptions = {}) {
    super(prefix);
    const { hfConfig, hiddenSize, vocabSize, numHiddenLayers } = vllmConfig.model;
    const embedding = { numEmbeddings: vocabSize, embeddingDim: hiddenSize, scale: options.embeddingScale };
    this.embedTokens = new VocabParallelEmbedding(vllmConfig, embedding, `${prefix}.embed_tokens`);
    this.layers = makeLayers(numHiddenLayers, (layerPrefix) => new DecoderLayer(vllmConfig, layerPrefix), `${prefix}.layers`);
    this.norm = new RMSNorm(vllmConfig, { hiddenSize, eps: requireHfField(hfConfig, 'normEps'), gemma: options.gemmaNorm }, `${prefix}.norm`);
  }

  embedInputIds(inputIds: Tensor): Tensor {
    return this.embedTokens.forward(inputIds);
  }

  forward(inputIds: Tensor, positions: Tensor, inputsEmbeds?: Tensor | null): Tensor {
    let hiddenStates = inputsEmbeds ?? this.embedInputIds(inputIds);
    let residual: Tensor | null = null;
    for (const layer of this.layers) [hiddenStates, residual] = layer.forward(positions, hiddenStates, residual);
    return this.norm.forwardResidual(hiddenStates, residual)[0];
  }
}

export class LlamaForCausalLM extends CausalLM {
  private readonly model: LlamaModel;
  private readonly lmHead: ParallelLMHead;
  private readonly logitsProcessor: LogitsProcessor;

  constructor(vllmConfig: VllmConfig, prefix: string, DecoderLayer: DecoderLayerClass = LlamaDecoderLayer, options: LlamaModelOptions = {}) {
    super(vllmConfig, prefix);
    const { hiddenSize, vocabSize, tieWordEmbeddings } = vllmConfig.model;
    this.model = new LlamaModel(vllmConfig, maybePrefix(prefix, 'model'), DecoderLayer, options);
    const tiedTo = tieWordEmbeddings ? this.model.embedTokens : undefined;
    this.lmHead = new ParallelLMHead(vllmConfig, { numEmbeddings: vocabSize, embeddingDim: hiddenSize, tiedTo }, maybePrefix(prefix, 'lm_head'));
    this.logitsProcessor = new LogitsProcessor(vllmConfig, vocabSize, options.logits);
  }

  embedInputIds(inputIds: Tensor): Tensor {
    return this.model.embedInputIds(inputIds);
  }

  forward(inputIds: Tensor, positions: Tensor, _intermediateTensors?: IntermediateTensors | null, inputsEmbeds?: Tensor | null): Tensor {
    return this.model.forward(inputIds, positions, inputsEmbeds);
  }

  computeLogits(hiddenStates: Tensor): Tensor {
    return this.logitsProcessor.forward(this.lmHead, hiddenStates);
  }

  computeTopTokens(hiddenStates: Tensor, k: number): Tensor {
    return this.logitsProcessor.topTokens(this.lmHead, hiddenStates, k);
  }
}
