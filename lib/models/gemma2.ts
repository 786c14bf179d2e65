/** Gemma 2 (Gemma Team, 2024; vllm models/gemma2.py). */
import { readHfField, readHfString, requireHfField } from '../config/hf-fields';
import type { VllmConfig } from '../config/vllm';
import { RMSNorm } from '../layers/norm';
import { Module } from '../nn/module';
import type { Tensor } from '../tensor/tensor';
import { LlamaAttention, LlamaForCausalLM, LlamaMLP } from './llama';

/** Unlike Llama's, its attention and MLP are normalised before and after; norms multiply by (1 + weight). */
export class Gemma2DecoderLayer extends Module {
  private readonly inputLayernorm: RMSNorm;
  private readonly selfAttn: LlamaAttention;
  private readonly postAttentionLayernorm: RMSNorm;
  private readonly preFeedforwardLayernorm: RMSNorm;
  private readonly mlp: LlamaMLP;
  private readonly postFeedforwardLayernorm: RMSNorm;

  constructor(vllmConfig: VllmConfig, prefix: string) {
    super(prefix);
    const { hfConfig, hiddenSize } = vllmConfig.model;
    const norm = (name: string): RMSNorm => new RMSNorm(vllmConfig, { hiddenSize, eps: requireHfField(hfConfig, 'normEps'), gemma: true }, `${prefix}.${name}`);
    const scale = 1 / Math.sqrt(requireHfField(hfConfig, 'queryPreAttnScalar'));
    const logitsSoftCap = readHfField(hfConfig, 'attnLogitSoftcapping') ?? undefined;
    this.inputLayernorm = norm('input_layernorm');
    this.selfAttn = new LlamaAttention(vllmConfig, `${prefix}.self_attn`, { scale, logitsSoftCap });
    this.postAttentionLayernorm = norm('post_attention_layernorm');
    this.preFeedforwardLayernorm = norm('pre_feedforward_layernorm');
    // transformers reads hidden_activation here; hidden_act may name another function.
    this.mlp = new LlamaMLP(vllmConfig, `${prefix}.mlp`, readHfString(hfConfig, 'hidden_activation') ?? 'gelu_pytorch_tanh');
    this.postFeedforwardLayernorm = norm('post_feedforward_layernorm');
  }

  /** As LlamaDecoderLayer: hiddenStates is not yet added to residual. */
  forward(positions: Tensor, hiddenStates: Tensor, residual: Tensor | null): [hiddenStates: Tensor, residual: Tensor] {
    const [attnInput, stream] = this.inputLayernorm.forwardResidual(hiddenStates, residual);
    const attnOutput = this.postAttentionLayernorm.forward(this.selfAttn.forward(positions, attnInput));
    const [mlpInput] = this.preFeedforwardLayernorm.forwardResidual(attnOutput, stream);
    return [this.postFeedforwardLayernorm.forward(this.mlp.forward(mlpInput)), stream];
  }
}

export class Gemma2ForCausalLM extends LlamaForCausalLM {
  constructor(vllmConfig: VllmConfig, prefix: string) {
    const { hfConfig, hiddenSize } = vllmConfig.model;
    const softCap = readHfField(hfConfig, 'finalLogitSoftcapping') ?? undefined;
    super(vllmConfig, prefix, Gemma2DecoderLayer, { gemmaNorm: true, embeddingScale: Math.sqrt(hiddenSize), logits: { softCap } });
  }
}
