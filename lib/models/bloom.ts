/** BLOOM (BigScience, 2022; vllm models/bloom.py). */
import { readHfBoolean, readHfField, requireHfField } from '../config/hf-fields';
import type { VllmConfig } from '../config/vllm';
import { getActFn } from '../layers/activation';
import { alibiSlopesBuffer } from '../layers/alibi';
import { Attention, attentionDims, type AttentionDims } from '../layers/attention';
import { deinterleaveQkv } from '../layers/interleaved-qkv';
import { ColumnParallelLinear, RowParallelLinear } from '../layers/linear';
import { LogitsProcessor } from '../layers/logits-processor';
import { QKVParallelLinear } from '../layers/merged-linear';
import { LayerNorm } from '../layers/norm';
import { ParallelLMHead, VocabParallelEmbedding } from '../layers/vocab-embedding';
import type { IntermediateTensors } from '../nn/intermediate-tensors';
import type { LoadWeightsOptions } from '../nn/load-weights';
import { makeLayers, maybePrefix, Module } from '../nn/module';
import type { ConstantBuffer, LoadedWeight } from '../nn/parameter';
import { WeightsMapper } from '../nn/weights-mapper';
import type { Tensor } from '../tensor/tensor';
import { split } from '../tensor/views';
import { CausalLM } from './causal-lm';

export class BloomAttention extends Module {
  private readonly dims: AttentionDims;
  private readonly queryKeyValue: QKVParallelLinear;
  private readonly dense: RowParallelLinear;
  private readonly slopes: ConstantBuffer;
  private readonly attn: Attention;

  constructor(vllmConfig: VllmConfig, prefix: string) {
    super(prefix);
    const dims = (this.dims = attentionDims(vllmConfig));
    // One matrix in the checkpoint holds all three.
    const partNames = ['query_key_value', 'query_key_value', 'query_key_value'];
    this.queryKeyValue = new QKVParallelLinear(vllmConfig, { ...dims, bias: true, partNames }, `${prefix}.query_key_value`);
    this.dense = new RowParallelLinear(vllmConfig, { inputSize: dims.hiddenSize, outputSize: dims.hiddenSize, bias: true }, `${prefix}.dense`);
    this.slopes = alibiSlopesBuffer(vllmConfig, dims.totalNumHeads);
    this.attn = new Attention(vllmConfig, { ...dims, alibiSlopes: this.slopes.tensor }, `${prefix}.attn`);
  }

  /** Positions enter through the distances of the biases only. */
  forward(hiddenStates: Tensor): Tensor {
    const [q, k, v] = split(this.queryKeyValue.forward(hiddenStates), this.dims.qkvSizes) as [Tensor, Tensor, Tensor];
    return this.dense.forward(this.attn.forward(q, k, v));
  }
}

export class BloomMLP extends Module {
  private readonly denseHTo4h: ColumnParallelLinear;
  private readonly dense4hToH: RowParallelLinear;
  private readonly act = getActFn('gelu_new');

  constructor(vllmConfig: VllmConfig, prefix: string) {
    super(prefix);
    const { hfConfig, hiddenSize } = vllmConfig.model;
    const size = readHfField(hfConfig, 'intermediateSize') ?? 4 * hiddenSize;
    this.denseHTo4h = new ColumnParallelLinear(vllmConfig, { inputSize: hiddenSize, outputSize: size, bias: true }, `${prefix}.dense_h_to_4h`);
    this.dense4hToH = new RowParallelLinear(vllmConfig, { inputSize: size, outputSize: hiddenSize, bias: true }, `${prefix}.dense_4h_to_h`);
  }

  forward(x: Tensor): Tensor {
    return this.dense4hToH.forward(this.act(this.denseHTo4h.forward(x)));
  }
}

export class BloomBlock extends Module {
  private readonly inputLayernorm: LayerNorm;
  private readonly selfAttention: BloomAttention;
  private readonly postAttentionLayernorm: LayerNorm;
  private readonly mlp: BloomMLP;
  private readonly residualIsNormed: boolean;

  constructor(vllmConfig: VllmConfig, prefix: string) {
    super(prefix);
    const { hfConfig, hiddenSize } = vllmConfig.model;
    const norm = { hiddenSize, eps: requireHfField(hfConfig, 'normEps') };
    this.residualIsNormed = readHfBoolean(hfConfig, 'apply_residual_connection_post_layernorm', false);
    this.inputLayernorm = new LayerNorm(vllmConfig, norm, `${prefix}.input_layernorm`);
    this.selfAttention = new BloomAttention(vllmConfig, `${prefix}.self_attention`);
    this.postAttentionLayernorm = new LayerNorm(vllmConfig, norm, `${prefix}.post_attention_layernorm`);
    this.mlp = new BloomMLP(vllmConfig, `${prefix}.mlp`);
  }

  /** hiddenStates is the output of the block before, not yet added to residual. */
  forward(hiddenStates: Tensor, residual: Tensor | null): [hiddenStates: Tensor, residual: Tensor] {
    const [attnInput, stream] = this.inputLayernorm.forwardResidual(hiddenStates, residual);
    const attnOutput = this.selfAttention.forward(attnInput);
    const attnResidual = this.residualIsNormed ? attnInput : stream;
    const [mlpInput] = this.postAttentionLayernorm.forwardResidual(attnOutput, attnResidual);
    return [this.mlp.forward(mlpInput), this.residualIsNormed ? mlpInput : attnResidual];
  }
}

export class BloomModel extends Module {
  readonly wordEmbeddings: VocabParallelEmbedding;
  private readonly wordEmbeddingsLayernorm: LayerNorm;
  private readonly h: BloomBlock[];
  private readonly lnF: LayerNorm;

  constructor(vllmConfig: VllmConfig, prefix: string) {
    super(prefix);
    const { hfConfig, hiddenSize, vocabSize, numHiddenLayers } = vllmConfig.model;
    const norm = { hiddenSize, eps: requireHfField(hfConfig, 'normEps') };
    this.wordEmbeddings = new VocabParallelEmbedding(vllmConfig, { numEmbeddings: vocabSize, embeddingDim: hiddenSize }, `${prefix}.word_embeddings`);
    this.wordEmbeddingsLayernorm = new LayerNorm(vllmConfig, norm, `${prefix}.word_embeddings_layernorm`);
    this.h = makeLayers(numHiddenLayers, (layerPrefix) => new BloomBlock(vllmConfig, layerPrefix), `${prefix}.h`);
    this.lnF = new LayerNorm(vllmConfig, norm, `${prefix}.ln_f`);
  }

  embedInputIds(inputIds: Tensor): Tensor {
    return this.wordEmbeddings.forward(inputIds);
  }

  forward(inputIds: Tensor, inputsEmbeds?: Tensor | null): Tensor {
    let hiddenStates = this.wordEmbeddingsLayernorm.forward(inputsEmbeds ?? this.embedInputIds(inputIds));
    let residual: Tensor | null = null;
    for (const block of this.h) [hiddenStates, residual] = block.forward(hiddenStates, residual);
    return this.lnF.forwardResidual(hiddenStates, residual)[0];
  }
}

export class BloomForCausalLM extends CausalLM {
  private readonly transformer: BloomModel;
  private readonly lmHead: ParallelLMHead;
  private readonly logitsProcessor: LogitsProcessor;

  constructor(vllmConfig: VllmConfig, prefix: string) {
    super(vllmConfig, prefix);
    const { hiddenSize, vocabSize, tieWordEmbeddings } = vllmConfig.model;
    this.transformer = new BloomModel(vllmConfig, maybePrefix(prefix, 'transformer'));
    const tiedTo = tieWordEmbeddings ? this.transformer.wordEmbeddings : undefined;
    this.lmHead = new ParallelLMHead(vllmConfig, { numEmbeddings: vocabSize, embeddingDim: hiddenSize, tiedTo }, maybePrefix(prefix, 'lm_head'));
    this.logitsProcessor = new LogitsProcessor(vllmConfig, vocabSize);
  }

  embedInputIds(inputIds: Tensor): Tensor {
    return this.transformer.embedInputIds(inputIds);
  }

  forward(inputIds: Tensor, _positions: Tensor, _intermediateTensors?: IntermediateTensors | null, inputsEmbeds?: Tensor | null): Tensor {
    return this.transformer.forward(inputIds, inputsEmbeds);
  }

  computeLogits(hiddenStates: Tensor): Tensor {
    return this.logitsProcessor.forward(this.lmHead, hiddenStates);
  }

  computeTopTokens(hiddenStates: Tensor, k: number): Tensor {
    return this.logitsProcessor.topTokens(this.lmHead, hiddenStates, k);
  }

  override loadWeights(weights: Iterable<LoadedWeight>): Set<string> {
    return super.loadWeights(deinterleaveQkv(weights, this.vllmConfig.model.numAttentionHeads));
  }

  /** Checkpoints that were saved without the head have no `transformer.` before their names. */
  protected override loadOptions(): LoadWeightsOptions {
    if (this.prefix !== '') return super.loadOptions();
    return { ...super.loadOptions(), mapper: new WeightsMapper({ origToNewRegex: [[/^(?!transformer\.|lm_head\.)/, 'transformer.']] }) };
  }
}
