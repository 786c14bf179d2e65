/** Qwen 2 and 2.5: Llama with biases of q, k and v (Yang et al., 2024; vllm models/qwen2.py). */
import type { VllmConfig } from '../config/vllm';
import { LlamaAttention, LlamaDecoderLayer, LlamaForCausalLM } from './llama';

export class Qwen2DecoderLayer extends LlamaDecoderLayer {
  constructor(vllmConfig: VllmConfig, prefix: string) {
    super(vllmConfig, prefix, { selfAttn: new LlamaAttention(vllmConfig, `${prefix}.self_attn`, { bias: { qkv: true, o: false } }) });
  }
}

export class Qwen2ForCausalLM extends LlamaForCausalLM {
  constructor(vllmConfig: VllmConfig, prefix: string) {
    super(vllmConfig, prefix, Qwen2DecoderLayer);
  }
}
