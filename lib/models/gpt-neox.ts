/** GPT-NeoX, Pythia and the models that share its architecture (Black et al., 2022; vllm models/gpt_neox.py). */
import { readHfBoolean, readHfString, requireHfField } from '../config/hf-fields';
import type { VllmConfig } from '../config/vllm';
import { getActFn } from '../layers/activation';
import { Attention, attentionDims, type AttentionDims } from '../layers/attention';
import { deinterleaveQkv } from '../layers/interleaved-qkv';
import { ColumnParallelLinear, RowParallelLinear } from '../layers/linear';
import { LogitsProcessor } from '../layers/logits-processor';
import { QKVParallelLinear } from '../layers/merged-linear';
import { LayerNorm } from '../layers/norm';
import { add } from '../layers/residual';
import { getRope, type RotaryEmbedding } from '../layers/rotary';
import { ParallelLMHead, VocabParallelEmbedding } from '../layers/vocab-embedding';
import type { IntermediateTensors } from '../nn/intermediate-tensors';
import type { LoadWeightsOptions } from '../nn/load-weights';
import { makeLayers, maybePrefix, Module } from '../nn/module';
import type { LoadedWeight } from '../nn/parameter';
import { WeightsMapper } from '../nn/weights-mapper';
import type { Tensor } from '../tensor/tensor';
import { split } from '../tensor/views';
import { CausalLM } from './causal-lm';

export class GPTNeoXAttention extends Module {
  private readonly dims: AttentionDims;
  private readonly queryKeyValue: QKVParallelLinear;
  private readonly dense: RowParallelLinear;
  private readonly rotaryEmb: RotaryEmbedding;
  private readonly attn: Attention;

  constructor(vllmConfig: VllmConfig, prefix: string) {
    super(prefix);
    const dims = (this.dims = attentionDims(vllmConfig));
    const bias = readHfBoolean(vllmConfig.model.hfConfig, 'attention_bias', true);
    // One matrix in the checkpoint holds all three.
    const partNames = ['query_key_value', 'query_key_value', 'query_key_value'];
    this.queryKeyValue = new QKVParallelLinear(vllmConfig, { ...dims, bias, partNames }, `${prefix}.query_key_value`);
    this.dense = new RowParallelLinear(vllmConfig, { inputSize: dims.hiddenSize, outputSize: dims.hiddenSize, bias }, `${prefix}.dense`);
    this.rotaryEmb = getRope(vllmConfig, { headDim: dims.headDim });
    this.attn = new Attention(vllmConfig, dims, `${prefix}.attn`);
  }

  forward(positions: Tensor, hiddenStates: Tensor): Tensor {
    const [q, k, v] = split(this.queryKeyValue.forward(hiddenStates), this.dims.qkvSizes) as [Tensor, Tensor, Tensor];
    this.rotaryEmb.forward(positions, q, k);
    return this.dense.forward(this.attn.forward(q, k, v));
  }
}

export class GPTNeoXMLP extends Module {
  private readonly denseHTo4h: ColumnParallelLinear;
  private readonly dense4hToH: RowParallelLinear;
  private readonly act: (x: Tensor) => Tensor;

  constructor(vllmConfig: VllmConfig, prefix: string) {
    super(prefix);
    const { hfConfig, hiddenSize } = vllmConfig.model;
    const size = requireHfField(hfConfig, 'intermediateSize');
    this.denseHTo4h = new ColumnParallelLinear(vllmConfig, { inputSize: hiddenSize, outputSize: size, bias: true }, `${prefix}.dense_h_to_4h`);
    this.dense4hToH = new RowParallelLinear(vllmConfig, { inputSize: size, outputSize: hiddenSize, bias: true }, `${prefix}.dense_4h_to_h`);
    this.act = getActFn(readHfString(hfConfig, 'hidden_act') ?? 'gelu');
  }

  forward(x: Tensor): Tensor {
    return this.dense4hToH.forward(this.act(this.denseHTo4h.forward(x)));
  }
}

export class GPTNeoXLayer extends Module {
  private readonly inputLayernorm: LayerNorm;
  private readonly postAttentionLayernorm: LayerNorm;
  private readonly attention: GPTNeoXAttention;
  private readonly mlp: GPTNeoXMLP;
  private readonly useParallelResidual: boolean;

  constructor(vllmConfig: VllmConfig, prefix: string) {
    super(prefix);
    const { hfConfig, hiddenSize } = vllmConfig.model;
    const norm = { hiddenSize, eps: requireHfField(hfConfig, 'normEps') };
    this.useParallelResidual = readHfBoolean(hfConfig, 'use_parallel_residual', true);
    this.inputLayernorm = new LayerNorm(vllmConfig, norm, `${prefix}.input_layernorm`);
    this.postAttentionLayernorm = new LayerNorm(vllmConfig, norm, `${prefix}.post_attention_layernorm`);
    this.attention = new GPTNeoXAttention(vllmConfig, `${prefix}.attention`);
    this.mlp = new GPTNeoXMLP(vllmConfig, `${prefix}.mlp`);
  }

  /** hiddenStates is the output of the layer before, not yet added to residual. */
  forward(positions: Tensor, hiddenStates: Tensor, residual: Tensor | null): [hiddenStates: Tensor, residual: Tensor] {
    const [attnInput, stream] = this.inputLayernorm.forwardResidual(hiddenStates, residual);
    const attnOutput = this.attention.forward(positions, attnInput);
    if (this.useParallelResidual) {
      const mlpOutput = this.mlp.forward(this.postAttentionLayernorm.forward(stream));
      return [add(mlpOutput, attnOutput), stream];
    }
    const [mlpInput] = this.postAttentionLayernorm.forwardResidual(attnOutput, stream);
    return [this.mlp.forward(mlpInput), stream];
  }
}

export class GPTNeoXModel extends Module {
  readonly embedIn: VocabParallelEmbedding;
  private readonly layers: GPTNeoXLayer[];
  private readonly finalLayerNorm: LayerNorm;

  constructor(vllmConfig: VllmConfig, prefix: string) {
    super(prefix);
    const { hfConfig, hiddenSize, vocabSize, numHiddenLayers } = vllmConfig.model;
    this.embedIn = new VocabParallelEmbedding(vllmConfig, { numEmbeddings: vocabSize, embeddingDim: hiddenSize }, `${prefix}.embed_in`);
    this.layers = makeLayers(numHiddenLayers, (layerPrefix) => new GPTNeoXLayer(vllmConfig, layerPrefix), `${prefix}.layers`);
    this.finalLayerNorm = new LayerNorm(vllmConfig, { hiddenSize, eps: requireHfField(hfConfig, 'normEps') }, `${prefix}.final_layer_norm`);
  }

  embedInputIds(inputIds: Tensor): Tensor {
    return this.embedIn.forward(inputIds);
  }

  forward(inputIds: Tensor, positions: Tensor, inputsEmbeds?: Tensor | null): Tensor {
    let hiddenStates = inputsEmbeds ?? this.embedInputIds(inputIds);
    let residual: Tensor | null = null;
    for (const layer of this.layers) [hiddenStates, residual] = layer.forward(positions, hiddenStates, residual);
    return this.finalLayerNorm.forwardResidual(hiddenStates, residual)[0];
  }
}

export class GPTNeoXForCausalLM extends CausalLM {
  private readonly gptNeox: GPTNeoXModel;
  private readonly embedOut: ParallelLMHead;
  private readonly logitsProcessor: LogitsProcessor;

  constructor(vllmConfig: VllmConfig, prefix: string) {
    super(vllmConfig, prefix);
    const { hiddenSize, vocabSize, tieWordEmbeddings } = vllmConfig.model;
    this.gptNeox = new GPTNeoXModel(vllmConfig, maybePrefix(prefix, 'gpt_neox'));
    const tiedTo = tieWordEmbeddings ? this.gptNeox.embedIn : undefined;
    this.embedOut = new ParallelLMHead(vllmConfig, { numEmbeddings: vocabSize, embeddingDim: hiddenSize, tiedTo }, maybePrefix(prefix, 'embed_out'));
    this.logitsProcessor = new LogitsProcessor(vllmConfig, vocabSize);
  }

  embedInputIds(inputIds: Tensor): Tensor {
    return this.gptNeox.embedInputIds(inputIds);
  }

  forward(inputIds: Tensor, positions: Tensor, _intermediateTensors?: IntermediateTensors | null, inputsEmbeds?: Tensor | null): Tensor {
    return this.gptNeox.forward(inputIds, positions, inputsEmbeds);
  }

  computeLogits(hiddenStates: Tensor): Tensor {
    return this.logitsProcessor.forward(this.embedOut, hiddenStates);
  }

  computeTopTokens(hiddenStates: Tensor, k: number): Tensor {
    return this.logitsProcessor.topTokens(this.embedOut, hiddenStates, k);
  }

  override loadWeights(weights: Iterable<LoadedWeight>): Set<string> {
    return super.loadWeights(deinterleaveQkv(weights, this.vllmConfig.model.numAttentionHeads));
  }

  protected override loadOptions(): LoadWeightsOptions {
    const copy = maybePrefix(this.prefix, 'embed_out.weight');
    const tied = this.vllmConfig.model.tieWordEmbeddings ? { [copy]: null } : {};
    // Old checkpoints hold the causal mask too.
    return { mapper: new WeightsMapper({ origToNewRenaming: tied, origToNewRegex: [[/\.attention\.(masked_)?bias$/, null]] }) };
  }
}
