/** Llama 1 to 3.x and the checkpoints that share its architecture (Touvron et al., 2023; vllm models/llama.py). */
import { readHfBoolean, readHfString, requireHfField } from '../config/hf-fields';
import type { VllmConfig } from '../config/vllm';
import { gatedActivation } from '../layers/activation';
import { Attention, attentionDims, type AttentionDims } from '../layers/attention';
import { RowParallelLinear } from '../layers/linear';
import { LogitsProcessor } from '../layers/logits-processor';
import { MergedColumnParallelLinear, QKVParallelLinear } from '../layers/merged-linear';
import { RMSNorm } from '../layers/norm';
import { getRope, type RotaryEmbedding } from '../layers/rotary';
import { ParallelLMHead, VocabParallelEmbedding } from '../layers/vocab-embedding';
import { loadWeights } from '../nn/load-weights';
import { makeLayers, maybePrefix, Module } from '../nn/module';
import type { LoadedWeight } from '../nn/parameter';
import type { Tensor } from '../tensor/tensor';
import { split } from '../tensor/views';
import type { TextGenerationModel } from './interfaces';

export class LlamaMLP extends Module {
  private readonly gateUpProj: MergedColumnParallelLinear;
  private readonly downProj: RowParallelLinear;
  private readonly act: (x: Tensor) => Tensor;

  constructor(vllmConfig: VllmConfig, prefix: string) {
    super(prefix);
    const { hfConfig, hiddenSize } = vllmConfig.model;
    const size = requireHfField(hfConfig, 'intermediateSize');
    const bias = readHfBoolean(hfConfig, 'mlp_bias', false);
    this.gateUpProj = new MergedColumnParallelLinear(vllmConfig, { inputSize: hiddenSize, outputSizes: [size, size], bias }, `${prefix}.gate_up_proj`);
    this.downProj = new RowParallelLinear(vllmConfig, { inputSize: size, outputSize: hiddenSize, bias }, `${prefix}.down_proj`);
    this.act = gatedActivation(readHfString(hfConfig, 'hidden_act') ?? 'silu');
  }

  forward(x: Tensor): Tensor {
    return this.downProj.forward(this.act(this.gateUpProj.forward(x)));
  }
}

export class LlamaAttention extends Module {
  private readonly dims: AttentionDims;
  private readonly qkvProj: QKVParallelLinear;
  private readonly oProj: RowParallelLinear;
  private readonly rotaryEmb: RotaryEmbedding;
  private readonly attn: Attention;

  constructor(vllmConfig: VllmConfig, prefix: string) {
    super(prefix);
    const dims = (this.dims = attentionDims(vllmConfig));
    const bias = readHfBoolean(vllmConfig.model.hfConfig, 'attention_bias', false);
    this.qkvProj = new QKVParallelLinear(vllmConfig, { ...dims, bias }, `${prefix}.qkv_proj`);
    this.oProj = new RowParallelLinear(
      vllmConfig,
      { inputSize: dims.totalNumHeads * dims.headDim, outputSize: dims.hiddenSize, bias },
      `${prefix}.o_proj`,
    );
    this.rotaryEmb = getRope(vllmConfig, { headDim: dims.headDim });
    this.attn = new Attention(vllmConfig, dims, `${prefix}.attn`);
  }

  forward(positions: Tensor, hiddenStates: Tensor): Tensor {
    const [q, k, v] = split(this.qkvProj.forward(hiddenStates), this.dims.qkvSizes) as [Tensor, Tensor, Tensor];
    this.rotaryEmb.forward(positions, q, k);
    return this.oProj.forward(this.attn.forward(q, k, v));
  }
}

export class LlamaDecoderLayer extends Module {
  private readonly inputLayernorm: RMSNorm;
  private readonly selfAttn: LlamaAttention;
  private readonly postAttentionLayernorm: RMSNorm;
  private readonly mlp: LlamaMLP;

  constructor(vllmConfig: VllmConfig, prefix: string) {
    super(prefix);
    const { hfConfig, hiddenSize } = vllmConfig.model;
    const norm = { hiddenSize, eps: requireHfField(hfConfig, 'normEps') };
    this.inputLayernorm = new RMSNorm(vllmConfig, norm, `${prefix}.input_layernorm`);
    this.selfAttn = new LlamaAttention(vllmConfig, `${prefix}.self_attn`);
    this.postAttentionLayernorm = new RMSNorm(vllmConfig, norm, `${prefix}.post_attention_layernorm`);
    this.mlp = new LlamaMLP(vllmConfig, `${prefix}.mlp`);
  }

  /** hiddenStates is the output of the layer before, not yet added to residual. */
  forward(positions: Tensor, hiddenStates: Tensor, residual: Tensor | null): [hiddenStates: Tensor, residual: Tensor] {
    const [attnInput, stream] = this.inputLayernorm.forwardResidual(hiddenStates, residual);
    const attnOutput = this.selfAttn.forward(positions, attnInput);
    const [mlpInput] = this.postAttentionLayernorm.forwardResidual(attnOutput, stream);
    return [this.mlp.forward(mlpInput), stream];
  }
}

/** Token ids to hidden states; usable inside a composite model through `inputsEmbeds`. */
export class LlamaModel extends Module {
  readonly embedTokens: VocabParallelEmbedding;
  private readonly layers: LlamaDecoderLayer[];
  private readonly norm: RMSNorm;

  constructor(vllmConfig: VllmConfig, prefix: string) {
    super(prefix);
    const { hfConfig, hiddenSize, vocabSize, numHiddenLayers } = vllmConfig.model;
    this.embedTokens = new VocabParallelEmbedding(vllmConfig, { numEmbeddings: vocabSize, embeddingDim: hiddenSize }, `${prefix}.embed_tokens`);
    this.layers = makeLayers(numHiddenLayers, (layerPrefix) => new LlamaDecoderLayer(vllmConfig, layerPrefix), `${prefix}.layers`);
    this.norm = new RMSNorm(vllmConfig, { hiddenSize, eps: requireHfField(hfConfig, 'normEps') }, `${prefix}.norm`);
  }

  embedInputIds(inputIds: Tensor): Tensor {
    return this.embedTokens.forward(inputIds);
  }

  forward(inputIds: Tensor, positions: Tensor, inputsEmbeds?: Tensor): Tensor {
    let hiddenStates = inputsEmbeds ?? this.embedInputIds(inputIds);
    let residual: Tensor | null = null;
    for (const layer of this.layers) [hiddenStates, residual] = layer.forward(positions, hiddenStates, residual);
    return this.norm.forwardResidual(hiddenStates, residual)[0];
  }
}

export class LlamaForCausalLM extends Module implements TextGenerationModel {
  private readonly model: LlamaModel;
  private readonly lmHead: ParallelLMHead;
  private readonly logitsProcessor: LogitsProcessor;
  private readonly tied: boolean;

  constructor(vllmConfig: VllmConfig, prefix: string) {
    super(prefix);
    const { hiddenSize, vocabSize, tieWordEmbeddings } = vllmConfig.model;
    this.tied = tieWordEmbeddings;
    this.model = new LlamaModel(vllmConfig, maybePrefix(prefix, 'model'));
    const tiedTo = tieWordEmbeddings ? this.model.embedTokens : undefined;
    this.lmHead = new ParallelLMHead(vllmConfig, { numEmbeddings: vocabSize, embeddingDim: hiddenSize, tiedTo }, maybePrefix(prefix, 'lm_head'));
    this.logitsProcessor = new LogitsProcessor(vllmConfig, vocabSize);
  }

  embedInputIds(inputIds: Tensor): Tensor {
    return this.model.embedInputIds(inputIds);
  }

  forward(inputIds: Tensor, positions: Tensor, inputsEmbeds?: Tensor): Tensor {
    return this.model.forward(inputIds, positions, inputsEmbeds);
  }

  computeLogits(hiddenStates: Tensor): Tensor {
    return this.logitsProcessor.forward(this.lmHead, hiddenStates);
  }

  loadWeights(weights: Iterable<LoadedWeight>): void {
    // Some checkpoints with tied embeddings store the copy too.
    const copy = maybePrefix(this.prefix, 'lm_head.weight');
    loadWeights(this, weights, { rename: (name) => (this.tied && name === copy ? null : name) });
  }
}
