/** Qwen3 with a mixture of experts instead of the MLP in some or all layers (Yang et al., 2025; vllm models/qwen3_moe.py). */
import { modelConfigError, readHfBoolean, readHfField, readHfString, requireHfField } from '../config/hf-fields';
import type { HfConfig } from '../config/model';
import type { VllmConfig } from '../config/vllm';
import { FusedMoE } from '../layers/fused-moe';
import { ReplicatedLinear } from '../layers/linear';
import { extractLayerIndex, Module } from '../nn/module';
import type { Tensor } from '../tensor/tensor';
import { LlamaAttention, LlamaDecoderLayer, LlamaForCausalLM, LlamaMLP } from './llama';

export class Qwen3MoeSparseMoeBlock extends Module {
  private readonly gate: ReplicatedLinear;
  private readonly experts: FusedMoE;

  constructor(vllmConfig: VllmConfig, prefix: string) {
    super(prefix);
    const { hfConfig, hiddenSize } = vllmConfig.model;
    const numExperts = requireHfField(hfConfig, 'numExperts');
    this.gate = new ReplicatedLinear(vllmConfig, { inputSize: hiddenSize, outputSize: numExperts, bias: false }, `${prefix}.gate`);
    this.experts = new FusedMoE(
      vllmConfig,
      {
        numExperts,
        topK: requireHfField(hfConfig, 'numExpertsPerToken'),
        hiddenSize,
        intermediateSize: requireHfField(hfConfig, 'moeIntermediateSize'),
        renormalize: readHfBoolean(hfConfig, 'norm_topk_prob', false),
        hiddenAct: readHfString(hfConfig, 'hidden_act') ?? 'silu',
      },
      `${prefix}.experts`,
    );
  }

  forward(x: Tensor): Tensor {
    return this.experts.forward(x, this.gate.forward(x));
  }
}

/** Layers of mlp_only_layers, and those that decoder_sparse_step leaves out, keep a plain MLP. */
function isSparse(hfConfig: HfConfig, layer: number): boolean {
  const dense = hfConfig.mlp_only_layers ?? [];
  if (!Array.isArray(dense) || !dense.every((index) => Number.isInteger(index)))
    throw modelConfigError(`config.json: mlp_only_layers: expected an array of layer numbers, received ${JSON.stringify(dense)}`);
  const step = readHfField(hfConfig, 'decoderSparseStep') ?? 1;
  return !dense.includes(layer) && (readHfField(hfConfig, 'numExperts') ?? 0) > 0 && (layer + 1) % step === 0;
}

export class Qwen3MoeDecoderLayer extends LlamaDecoderLayer {
  constructor(vllmConfig: VllmConfig, prefix: string) {
    const Mlp = isSparse(vllmConfig.model.hfConfig, extractLayerIndex(prefix)) ? Qwen3MoeSparseMoeBlock : LlamaMLP;
    super(vllmConfig, prefix, {
      selfAttn: new LlamaAttention(vllmConfig, `${prefix}.self_attn`, { qkNorm: true }),
      mlp: new Mlp(vllmConfig, `${prefix}.mlp`),
    });
  }
}

export class Qwen3MoeForCausalLM extends LlamaForCausalLM {
  constructor(vllmConfig: VllmConfig, prefix: string) {
    super(vllmConfig, prefix, Qwen3MoeDecoderLayer);
  }
}
