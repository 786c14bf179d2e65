/** Qwen 3: Llama with normalised query and key heads (Yang et al., 2025; vllm models/qwen3.py). */
import type { VllmConfig } from '../config/vllm';
import { LlamaAttention, LlamaDecoderLayer, LlamaForCausalLM } from './llama';

export class Qwen3DecoderLayer extends LlamaDecoderLayer {
  constructor(vllmConfig: VllmConfig, prefix: string) {
    super(vllmConfig, prefix, { selfAttn: new LlamaAttention(vllmConfig, `${prefix}.self_attn`, { qkNorm: true }) });
  }
}

export class Qwen3ForCausalLM extends LlamaForCausalLM {
  constructor(vllmConfig: VllmConfig, prefix: string) {
    super(vllmConfig, prefix, Qwen3DecoderLayer);
  }
}
