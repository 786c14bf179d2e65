/** OPT and Galactica (Zhang et al., 2022; vllm models/opt.py). */
import { modelConfigError, readHfBoolean, readHfField, readHfString, requireHfField } from '../config/hf-fields';
import type { VllmConfig } from '../config/vllm';
import { getActFn } from '../layers/activation';
import { Attention, attentionDims, type AttentionDims } from '../layers/attention';
import { ColumnParallelLinear, ReplicatedLinear, RowParallelLinear } from '../layers/linear';
import { LogitsProcessor } from '../layers/logits-processor';
import { QKVParallelLinear } from '../layers/merged-linear';
import { LayerNorm } from '../layers/norm';
import { PositionEmbedding } from '../layers/position-embedding';
import { add } from '../layers/residual';
import { ParallelLMHead, VocabParallelEmbedding } from '../layers/vocab-embedding';
import type { IntermediateTensors } from '../nn/intermediate-tensors';
import type { LoadWeightsOptions } from '../nn/load-weights';
import { makeLayers, maybePrefix, Module } from '../nn/module';
import { WeightsMapper } from '../nn/weights-mapper';
import type { Tensor } from '../tensor/tensor';
import { split } from '../tensor/views';
import { CausalLM } from './causal-lm';

/** config.json has no epsilon: it is that of torch.nn.LayerNorm. */
const NORM_EPS = 1e-5;
/** The table of positions begins with two rows that no token uses. */
const POSITION_OFFSET = 2;

export class OPTAttention extends Module {
  private readonly dims: AttentionDims;
  private readonly qkvProj: QKVParallelLinear;
  private readonly outProj: RowParallelLinear;
  private readonly attn: Attention;

  constructor(vllmConfig: VllmConfig, prefix: string) {
    super(prefix);
    const dims = (this.dims = attentionDims(vllmConfig));
    const bias = readHfBoolean(vllmConfig.model.hfConfig, 'enable_bias', true);
    this.qkvProj = new QKVParallelLinear(vllmConfig, { ...dims, bias }, `${prefix}.qkv_proj`);
    this.outProj = new RowParallelLinear(vllmConfig, { inputSize: dims.hiddenSize, outputSize: dims.hiddenSize, bias }, `${prefix}.out_proj`);
    this.attn = new Attention(vllmConfig, dims, `${prefix}.attn`);
  }

  forward(hiddenStates: Tensor): Tensor {
    const [q, k, v] = split(this.qkvProj.forward(hiddenStates), this.dims.qkvSizes) as [Tensor, Tensor, Tensor];
    return this.outProj.forward(this.attn.forward(q, k, v));
  }
}

export class OPTDecoderLayer extends Module {
  private readonly selfAttn: OPTAttention;
  private readonly selfAttnLayerNorm: LayerNorm;
  private readonly fc1: ColumnParallelLinear;
  private readonly act: (x: Tensor) => Tensor;
  private readonly fc2: RowParallelLinear;
  private readonly finalLayerNorm: LayerNorm;
  private readonly normBefore: boolean;

  constructor(vllmConfig: VllmConfig, prefix: string) {
    super(prefix);
    const { hfConfig, hiddenSize } = vllmConfig.model;
    const size = requireHfField(hfConfig, 'intermediateSize');
    const bias = readHfBoolean(hfConfig, 'enable_bias', true);
    const norm = { hiddenSize, eps: NORM_EPS };
    this.normBefore = readHfBoolean(hfConfig, 'do_layer_norm_before', true);
    this.selfAttn = new OPTAttention(vllmConfig, `${prefix}.self_attn`);
    this.selfAttnLayerNorm = new LayerNorm(vllmConfig, norm, `${prefix}.self_attn_layer_norm`);
    this.fc1 = new ColumnParallelLinear(vllmConfig, { inputSize: hiddenSize, outputSize: size, bias }, `${prefix}.fc1`);
    this.act = getActFn(readHfString(hfConfig, 'activation_function') ?? 'relu');
    this.fc2 = new RowParallelLinear(vllmConfig, { inputSize: size, outputSize: hiddenSize, bias }, `${prefix}.fc2`);
    this.finalLayerNorm = new LayerNorm(vllmConfig, norm, `${prefix}.final_layer_norm`);
  }

  /** With norms before, hiddenStates is not yet added to residual; with norms behind (OPT-350m) there is no residual between layers. */
  forward(hiddenStates: Tensor, residual: Tensor | null): [hiddenStates: Tensor, residual: Tensor | null] {
    if (!this.normBefore) {
      const [attended] = this.selfAttnLayerNorm.forwardResidual(this.selfAttn.forward(hiddenStates), hiddenStates);
      return [this.finalLayerNorm.forwardResidual(this.mlp(attended), attended)[0], null];
    }
    const [attnInput, stream] = this.selfAttnLayerNorm.forwardResidual(hiddenStates, residual);
    const [mlpInput] = this.finalLayerNorm.forwardResidual(this.selfAttn.forward(attnInput), stream);
    return [this.mlp(mlpInput), stream];
  }

  private mlp(x: Tensor): Tensor {
    return this.fc2.forward(this.act(this.fc1.forward(x)));
  }
}

export class OPTDecoder extends Module {
  readonly embedTokens: VocabParallelEmbedding;
  private readonly embedPositions: PositionEmbedding;
  private readonly projectIn: ReplicatedLinear | null = null;
  private readonly projectOut: ReplicatedLinear | null = null;
  private readonly layers: OPTDecoderLayer[];
  private readonly finalLayerNorm: LayerNorm | null = null;

  constructor(vllmConfig: VllmConfig, prefix: string) {
    super(prefix);
    const { hfConfig, hiddenSize, vocabSize, numHiddenLayers } = vllmConfig.model;
    const embeddingDim = readHfField(hfConfig, 'wordEmbedProjDim') ?? hiddenSize;
    this.embedTokens = new VocabParallelEmbedding(vllmConfig, { numEmbeddings: vocabSize, embeddingDim }, `${prefix}.embed_tokens`);
    const positions = { numPositions: requireHfField(hfConfig, 'maxPositionEmbeddings'), embeddingDim: hiddenSize, offset: POSITION_OFFSET };
    this.embedPositions = new PositionEmbedding(vllmConfig, positions, `${prefix}.embed_positions`);
    if (embeddingDim !== hiddenSize) {
      this.projectOut = new ReplicatedLinear(vllmConfig, { inputSize: hiddenSize, outputSize: embeddingDim, bias: false }, `${prefix}.project_out`);
      this.projectIn = new ReplicatedLinear(vllmConfig, { inputSize: embeddingDim, outputSize: hiddenSize, bias: false }, `${prefix}.project_in`);
    }
    this.layers = makeLayers(numHiddenLayers, (layerPrefix) => new OPTDecoderLayer(vllmConfig, layerPrefix), `${prefix}.layers`);
    // _remove_final_layer_norm is for checkpoints that were fine-tuned before transformers 4.20.1.
    const hasFinalNorm = readHfBoolean(hfConfig, 'do_layer_norm_before', true) && !readHfBoolean(hfConfig, '_remove_final_layer_norm', false);
    if (hasFinalNorm) this.finalLayerNorm = new LayerNorm(vllmConfig, { hiddenSize, eps: NORM_EPS }, `${prefix}.final_layer_norm`);
  }

  embedInputIds(inputIds: Tensor): Tensor {
    return this.embedTokens.forward(inputIds);
  }

  forward(inputIds: Tensor, positions: Tensor, inputsEmbeds?: Tensor | null): Tensor {
    const embeds = inputsEmbeds ?? this.embedInputIds(inputIds);
    let hiddenStates = add(this.projectIn ? this.projectIn.forward(embeds) : embeds, this.embedPositions.forward(positions));
    let residual: Tensor | null = null;
    for (const layer of this.layers) [hiddenStates, residual] = layer.forward(hiddenStates, residual);
    if (this.finalLayerNorm) [hiddenStates] = this.finalLayerNorm.forwardResidual(hiddenStates, residual);
    else if (residual) hiddenStates = add(hiddenStates, residual);
    return this.projectOut ? this.projectOut.forward(hiddenStates) : hiddenStates;
  }
}

export class OPTModel extends Module {
  readonly decoder: OPTDecoder;

  constructor(vllmConfig: VllmConfig, prefix: string) {
    super(prefix);
    this.decoder = new OPTDecoder(vllmConfig, `${prefix}.decoder`);
  }
}

export class OPTForCausalLM extends CausalLM {
  private readonly model: OPTModel;
  private readonly lmHead: ParallelLMHead;
  private readonly logitsProcessor: LogitsProcessor;

  constructor(vllmConfig: VllmConfig, prefix: string) {
    super(vllmConfig, prefix);
    const { hfConfig, hiddenSize, vocabSize, tieWordEmbeddings } = vllmConfig.model;
    if (!readHfBoolean(hfConfig, 'layer_norm_elementwise_affine', true))
      throw modelConfigError('config.json: layer_norm_elementwise_affine: expected true, received false: norms without weights are not supported');
    this.model = new OPTModel(vllmConfig, maybePrefix(prefix, 'model'));
    const embeddingDim = readHfField(hfConfig, 'wordEmbedProjDim') ?? hiddenSize;
    const tiedTo = tieWordEmbeddings ? this.model.decoder.embedTokens : undefined;
    this.lmHead = new ParallelLMHead(vllmConfig, { numEmbeddings: vocabSize, embeddingDim, tiedTo }, maybePrefix(prefix, 'lm_head'));
    this.logitsProcessor = new LogitsProcessor(vllmConfig, vocabSize);
  }

  embedInputIds(inputIds: Tensor): Tensor {
    return this.model.decoder.embedInputIds(inputIds);
  }

  forward(inputIds: Tensor, positions: Tensor, _intermediateTensors?: IntermediateTensors | null, inputsEmbeds?: Tensor | null): Tensor {
    return this.model.decoder.forward(inputIds, positions, inputsEmbeds);
  }

  computeLogits(hiddenStates: Tensor): Tensor {
    return this.logitsProcessor.forward(this.lmHead, hiddenStates);
  }

  computeTopTokens(hiddenStates: Tensor, k: number): Tensor {
    return this.logitsProcessor.topTokens(this.lmHead, hiddenStates, k);
  }

  /** Some checkpoints were saved without the causal head: their names begin with `decoder.`. */
  protected override loadOptions(): LoadWeightsOptions {
    const prefix = maybePrefix(this.prefix, 'decoder.');
    return { ...super.loadOptions(), mapper: new WeightsMapper({ origToNewPrefix: { [prefix]: maybePrefix(this.prefix, 'model.decoder.') } }) };
  }
}
