/**
 * A language model in one file: a small decoder like Llama's, written from what the package exports and nothing else.
 *
 * The classes are those of every model in Kvasir and in vLLM: attention, MLP, decoder layer, the stack of layers, and around it the
 * class that config.json names. A comment says what each piece is for; docs/adding-a-model.md explains the rules behind them.
 */
import {
  Attention,
  attentionDims,
  CausalLM,
  gatedActivation,
  getRope,
  layerWindow,
  LogitsProcessor,
  makeLayers,
  maybePrefix,
  MergedColumnParallelLinear,
  Module,
  ParallelLMHead,
  QKVParallelLinear,
  requireHfField,
  RMSNorm,
  RowParallelLinear,
  split,
  VocabParallelEmbedding,
  type AttentionDims,
  type IntermediateTensors,
  type RotaryEmbedding,
  type Tensor,
  type VllmConfig,
} from 'kvasir';

/**
 * Attention of one layer. Every module gets the whole configuration and its `prefix`: its own name in the checkpoint, here
 * `model.layers.3.self_attn`. What it builds gets a longer one, so that each weight is found by its name.
 */
class MyAttention extends Module {
  private readonly dims: AttentionDims;
  private readonly qkvProj: QKVParallelLinear;
  private readonly oProj: RowParallelLinear;
  private readonly rotaryEmb: RotaryEmbedding;
  private readonly attn: Attention;

  constructor(vllmConfig: VllmConfig, prefix: string) {
    super(prefix);
    const dims = (this.dims = attentionDims(vllmConfig));
    // Three matrices of the checkpoint (q_proj, k_proj, v_proj) as one multiplication. The layer knows the names of its parts.
    this.qkvProj = new QKVParallelLinear(vllmConfig, { ...dims, bias: false }, `${prefix}.qkv_proj`);
    const inputSize = dims.totalNumHeads * dims.headDim;
    this.oProj = new RowParallelLinear(vllmConfig, { inputSize, outputSize: dims.hiddenSize, bias: false }, `${prefix}.o_proj`);
    this.rotaryEmb = getRope(vllmConfig, { headDim: dims.headDim });
    // The prefix of an attention layer is also the name of its KV cache: no two layers may have the same.
    const perLayerSlidingWindow = layerWindow(vllmConfig, prefix);
    this.attn = new Attention(vllmConfig, { ...dims, perLayerSlidingWindow }, `${prefix}.attn`);
  }

  /** positions int32 [numTokens], hiddenStates [numTokens, hiddenSize]; the tokens of all requests of a step lie one after the other. */
  forward(positions: Tensor, hiddenStates: Tensor): Tensor {
    const [q, k, v] = split(this.qkvProj.forward(hiddenStates), this.dims.qkvSizes) as [Tensor, Tensor, Tensor];
    this.rotaryEmb.forward(positions, q, k); // in place
    // Which token belongs to which request, and where its cache lies, the layer knows by itself.
    return this.oProj.forward(this.attn.forward(q, k, v));
  }
}

/** down(silu(gate(x)) * up(x)) */
class MyMLP extends Module {
  private readonly gateUpProj: MergedColumnParallelLinear;
  private readonly downProj: RowParallelLinear;
  private readonly act = gatedActivation('silu');

  constructor(vllmConfig: VllmConfig, prefix: string) {
    super(prefix);
    const { hfConfig, hiddenSize } = vllmConfig.model;
    const size = requireHfField(hfConfig, 'intermediateSize');
    // gate_proj and up_proj as one multiplication.
    this.gateUpProj = new MergedColumnParallelLinear(vllmConfig, { inputSize: hiddenSize, outputSizes: [size, size], bias: false }, `${prefix}.gate_up_proj`);
    this.downProj = new RowParallelLinear(vllmConfig, { inputSize: size, outputSize: hiddenSize, bias: false }, `${prefix}.down_proj`);
  }

  forward(x: Tensor): Tensor {
    return this.downProj.forward(this.act(this.gateUpProj.forward(x)));
  }
}

class MyDecoderLayer extends Module {
  private readonly inputLayernorm: RMSNorm;
  private readonly selfAttn: MyAttention;
  private readonly postAttentionLayernorm: RMSNorm;
  private readonly mlp: MyMLP;

  constructor(vllmConfig: VllmConfig, prefix: string) {
    super(prefix);
    const { hfConfig, hiddenSize } = vllmConfig.model;
    const norm = { hiddenSize, eps: requireHfField(hfConfig, 'normEps') };
    this.inputLayernorm = new RMSNorm(vllmConfig, norm, `${prefix}.input_layernorm`);
    this.selfAttn = new MyAttention(vllmConfig, `${prefix}.self_attn`);
    this.postAttentionLayernorm = new RMSNorm(vllmConfig, norm, `${prefix}.post_attention_layernorm`);
    this.mlp = new MyMLP(vllmConfig, `${prefix}.mlp`);
  }

  /** The sum of all layers so far is handed on beside what the last one gave: a norm adds the two in the same pass in which it normalises. */
  forward(positions: Tensor, hiddenStates: Tensor, residual: Tensor | null): [hiddenStates: Tensor, residual: Tensor] {
    const [attnInput, stream] = this.inputLayernorm.forwardResidual(hiddenStates, residual);
    const attnOutput = this.selfAttn.forward(positions, attnInput);
    const [mlpInput] = this.postAttentionLayernorm.forwardResidual(attnOutput, stream);
    return [this.mlp.forward(mlpInput), stream];
  }
}

/** Token ids to hidden states. */
class MyModel extends Module {
  readonly embedTokens: VocabParallelEmbedding;
  private readonly layers: MyDecoderLayer[];
  private readonly norm: RMSNorm;

  constructor(vllmConfig: VllmConfig, prefix: string) {
    super(prefix);
    const { hfConfig, hiddenSize, vocabSize, numHiddenLayers } = vllmConfig.model;
    this.embedTokens = new VocabParallelEmbedding(vllmConfig, { numEmbeddings: vocabSize, embeddingDim: hiddenSize }, `${prefix}.embed_tokens`);
    // model.layers.0, model.layers.1, ...
    this.layers = makeLayers(numHiddenLayers, (layerPrefix) => new MyDecoderLayer(vllmConfig, layerPrefix), `${prefix}.layers`);
    this.norm = new RMSNorm(vllmConfig, { hiddenSize, eps: requireHfField(hfConfig, 'normEps') }, `${prefix}.norm`);
  }

  /** What a model that contains this one asks for, before it mixes in embeddings of its own. */
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

/**
 * The model as the engine sees it: `forward` for all tokens of a step, `computeLogits` for the rows that need them. Loading is
 * inherited: `loadWeights` of {@link CausalLM} gives each tensor of the checkpoint to the layer that claims its name.
 */
export class MyModelForCausalLM extends CausalLM {
  private readonly model: MyModel;
  private readonly lmHead: ParallelLMHead;
  private readonly logitsProcessor: LogitsProcessor;

  constructor(vllmConfig: VllmConfig, prefix: string) {
    super(vllmConfig, prefix);
    const { hiddenSize, vocabSize, tieWordEmbeddings } = vllmConfig.model;
    // The prefix of the outermost module is empty: maybePrefix sets no dot before the name then.
    this.model = new MyModel(vllmConfig, maybePrefix(prefix, 'model'));
    const tiedTo = tieWordEmbeddings ? this.model.embedTokens : undefined;
    this.lmHead = new ParallelLMHead(vllmConfig, { numEmbeddings: vocabSize, embeddingDim: hiddenSize, tiedTo }, maybePrefix(prefix, 'lm_head'));
    this.logitsProcessor = new LogitsProcessor(vllmConfig, vocabSize);
  }

  embedInputIds(inputIds: Tensor): Tensor {
    return this.model.embedInputIds(inputIds);
  }

  /** inputIds, positions: int32 [numTokens] -> hidden states [numTokens, hiddenSize]. */
  forward(inputIds: Tensor, positions: Tensor, _intermediateTensors?: IntermediateTensors | null, inputsEmbeds?: Tensor | null): Tensor {
    return this.model.forward(inputIds, positions, inputsEmbeds);
  }

  /** hiddenStates [numRows, hiddenSize] -> float32 [numRows, vocabSize]. */
  computeLogits(hiddenStates: Tensor): Tensor {
    return this.logitsProcessor.forward(this.lmHead, hiddenStates);
  }
}
