/** Mixtral: Llama with a mixture of experts in every layer (Jiang et al., 2024; vllm models/mixtral.py). */
import { readHfString, requireHfField } from '../config/hf-fields';
import type { VllmConfig } from '../config/vllm';
import { FusedMoE } from '../layers/fused-moe';
import { ReplicatedLinear } from '../layers/linear';
import { Module } from '../nn/module';
import type { Tensor } from '../tensor/tensor';
import { LlamaDecoderLayer, LlamaForCausalLM } from './llama';

export class MixtralMoE extends Module {
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
        intermediateSize: requireHfField(hfConfig, 'intermediateSize'),
        hiddenAct: readHfString(hfConfig, 'hidden_act') ?? 'silu',
        projNames: ['w1', 'w3', 'w2'],
      },
      `${prefix}.experts`,
    );
  }

  forward(x: Tensor): Tensor {
    return this.experts.forward(x, this.gate.forward(x));
  }
}

export class MixtralDecoderLayer extends LlamaDecoderLayer {
  constructor(vllmConfig: VllmConfig, prefix: string) {
    super(vllmConfig, prefix, { mlp: new MixtralMoE(vllmConfig, `${prefix}.block_sparse_moe`) });
  }
}

export class MixtralForCausalLM extends LlamaForCausalLM {
  constructor(vllmConfig: VllmConfig, prefix: string) {
    super(vllmConfig, prefix, MixtralDecoderLayer);
  }
}
