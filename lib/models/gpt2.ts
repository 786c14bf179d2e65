/** GPT-2 (Radford et al., 2019; vllm models/gpt2.py). */
import { readHfBoolean, readHfField, readHfString, requireHfField } from '../config/hf-fields';
import type { VllmConfig } from '../config/vllm';
import { getActFn } from '../layers/activation';
import { Attention, attentionDims, type AttentionDims } from '../layers/attention';
import { ColumnParallelLinear, RowParallelLinear } from '../layers/linear';
import { LogitsProcessor } from '../layers/logits-processor';
import { QKVParallelLinear } from '../layers/merged-linear';
import { LayerNorm } from '../layers/norm';
import { PositionEmbedding } from '../layers/position-embedding';
import { add } from '../layers/residual';
import { ParallelLMHead, VocabParallelEmbedding } from '../layers/vocab-embedding';
import type { IntermediateTensors } from '../nn/intermediate-tensors';
import type { LoadWeightsOptions } from '../nn/load-weights';
import { extractLayerIndex, makeLayers, maybePrefix, Module } from '../nn/module';
import type { LoadedWeight } from '../nn/parameter';
import { WeightsMapper } from '../nn/weights-mapper';
import type { Tensor } from '../tensor/tensor';
import { split } from '../tensor/views';
import { CausalLM } from './causal-lm';

/** Linear layers that are Conv1D in transformers: their weights are stored [in, out]. */
const CONV1D_WEIGHT = /\.(c_attn|c_proj|c_fc)\.weight$/;

export class GPT2Attention extends Module {
  private readonly dims: AttentionDims;
  private readonly cAttn: QKVParallelLinear;
  private readonly cProj: RowParallelLinear;
  private readonly attn: Attention;

  constructor(vllmConfig: VllmConfig, prefix: string) {
    super(prefix);
    const { hfConfig } = vllmConfig.model;
    const dims = (this.dims = attentionDims(vllmConfig));
    // One matrix in the checkpoint holds all three.
    const partNames = ['c_attn', 'c_attn', 'c_attn'];
    this.cAttn = new QKVParallelLinear(vllmConfig, { ...dims, bias: true, partNames }, `${prefix}.c_attn`);
    this.cProj = new RowParallelLinear(vllmConfig, { inputSize: dims.hiddenSize, outputSize: dims.hiddenSize, bias: true }, `${prefix}.c_proj`);
    const byLayer = readHfBoolean(hfConfig, 'scale_attn_by_inverse_layer_idx', false) ? extractLayerIndex(prefix) + 1 : 1;
    const scale = (readHfBoolean(hfConfig, 'scale_attn_weights', true) ? dims.scale : 1) / byLayer;
    this.attn = new Attention(vllmConfig, { ...dims, scale }, `${prefix}.attn`);
  }

  forward(hiddenStates: Tensor): Tensor {
    const [q, k, v] = split(this.cAttn.forward(hiddenStates), this.dims.qkvSizes) as [Tensor, Tensor, Tensor];
    return this.cProj.forward(this.attn.forward(q, k, v));
  }
}

export class GPT2MLP extends Module {
  private readonly cFc: ColumnParallelLinear;
  private readonly cProj: RowParallelLinear;
  private readonly act: (x: Tensor) => Tensor;

  constructor(vllmConfig: VllmConfig, prefix: string) {
    super(prefix);
    const { hfConfig, hiddenSize } = vllmConfig.model;
    const size = readHfField(hfConfig, 'intermediateSize') ?? 4 * hiddenSize;
    this.cFc = new ColumnParallelLinear(vllmConfig, { inputSize: hiddenSize, outputSize: size, bias: true }, `${prefix}.c_fc`);
    this.cProj = new RowParallelLinear(vllmConfig, { inputSize: size, outputSize: hiddenSize, bias: true }, `${prefix}.c_proj`);
    this.act = getActFn(readHfString(hfConfig, 'activation_function') ?? 'gelu_new');
  }

  forward(x: Tensor): Tensor {
    return this.cProj.forward(this.act(this.cFc.forward(x)));
  }
}

export class GPT2Block extends Module {
  private readonly ln1: LayerNorm;
  private readonly attn: GPT2Attention;
  private readonly ln2: LayerNorm;
  private readonly mlp: GPT2MLP;

  constructor(vllmConfig: VllmConfig, prefix: string) {
    super(prefix);
    const { hfConfig, hiddenSize } = vllmConfig.model;
    const norm = { hiddenSize, eps: requireHfField(hfConfig, 'normEps') };
    this.ln1 = new LayerNorm(vllmConfig, norm, `${prefix}.ln_1`);
    this.attn = new GPT2Attention(vllmConfig, `${prefix}.attn`);
    this.ln2 = new LayerNorm(vllmConfig, norm, `${prefix}.ln_2`);
    this.mlp = new GPT2MLP(vllmConfig, `${prefix}.mlp`);
  }

  /** hiddenStates is the output of the block before, not yet added to residual. */
  forward(hiddenStates: Tensor, residual: Tensor | null): [hiddenStates: Tensor, residual: Tensor] {
    const [attnInput, stream] = this.ln1.forwardResidual(hiddenStates, residual);
    const [mlpInput] = this.ln2.forwardResidual(this.attn.forward(attnInput), stream);
    return [this.mlp.forward(mlpInput), stream];
  }
}

export class GPT2Model extends Module {
  readonly wte: VocabParallelEmbedding;
  private readonly wpe: PositionEmbedding;
  private readonly h: GPT2Block[];
  private readonly lnF: LayerNorm;

  constructor(vllmConfig: VllmConfig, prefix: string) {
    super(prefix);
    const { hfConfig, hiddenSize, vocabSize, numHiddenLayers } = vllmConfig.model;
    this.wte = new VocabParallelEmbedding(vllmConfig, { numEmbeddings: vocabSize, embeddingDim: hiddenSize }, `${prefix}.wte`);
    const numPositions = requireHfField(hfConfig, 'maxPositionEmbeddings');
    this.wpe = new PositionEmbedding(vllmConfig, { numPositions, embeddingDim: hiddenSize }, `${prefix}.wpe`);
    this.h = makeLayers(numHiddenLayers, (layerPrefix) => new GPT2Block(vllmConfig, layerPrefix), `${prefix}.h`);
    this.lnF = new LayerNorm(vllmConfig, { hiddenSize, eps: requireHfField(hfConfig, 'normEps') }, `${prefix}.ln_f`);
  }

  embedInputIds(inputIds: Tensor): Tensor {
    return this.wte.forward(inputIds);
  }

  forward(inputIds: Tensor, positions: Tensor, inputsEmbeds?: Tensor | null): Tensor {
    let hiddenStates = add(inputsEmbeds ?? this.embedInputIds(inputIds), this.wpe.forward(positions));
    let residual: Tensor | null = null;
    for (const block of this.h) [hiddenStates, residual] = block.forward(hiddenStates, residual);
    return this.lnF.forwardResidual(hiddenStates, residual)[0];
  }
}

export class GPT2LMHeadModel extends CausalLM {
  private readonly transformer: GPT2Model;
  private readonly lmHead: ParallelLMHead;
  private readonly logitsProcessor: LogitsProcessor;

  constructor(vllmConfig: VllmConfig, prefix: string) {
    super(vllmConfig, prefix);
    const { hiddenSize, vocabSize, tieWordEmbeddings } = vllmConfig.model;
    this.transformer = new GPT2Model(vllmConfig, maybePrefix(prefix, 'transformer'));
    const tiedTo = tieWordEmbeddings ? this.transformer.wte : undefined;
    this.lmHead = new ParallelLMHead(vllmConfig, { numEmbeddings: vocabSize, embeddingDim: hiddenSize, tiedTo }, maybePrefix(prefix, 'lm_head'));
    this.logitsProcessor = new LogitsProcessor(vllmConfig, vocabSize);
  }

  embedInputIds(inputIds: Tensor): Tensor {
    return this.transformer.embedInputIds(inputIds);
  }

  forward(inputIds: Tensor, positions: Tensor, _intermediateTensors?: IntermediateTensors | null, inputsEmbeds?: Tensor | null): Tensor {
    return this.transformer.forward(inputIds, positions, inputsEmbeds);
  }

  computeLogits(hiddenStates: Tensor): Tensor {
    return this.logitsProcessor.forward(this.lmHead, hiddenStates);
  }

  computeTopTokens(hiddenStates: Tensor, k: number): Tensor {
    return this.logitsProcessor.topTokens(this.lmHead, hiddenStates, k);
  }

  override loadWeights(weights: Iterable<LoadedWeight>): Set<string> {
    return super.loadWeights(conv1dTransposed(weights));
  }

  protected override loadOptions(): LoadWeightsOptions {
    const mapper = new WeightsMapper({
      origToNewRegex: [
        [/\.attn\.(masked_)?bias$/, null], // the causal mask
        ...(this.prefix === '' ? ([[/^(?!transformer\.|lm_head\.)/, 'transformer.']] as const) : []), // saved without the head
      ],
    });
    return { ...super.loadOptions(), mapper };
  }
}

function* conv1dTransposed(weights: Iterable<LoadedWeight>): Generator<LoadedWeight> {
  for (const weight of weights) yield CONV1D_WEIGHT.test(weight.name) ? weight.transpose() : weight;
}
