/**
 * Phi 3 and Phi 4: Llama whose checkpoints hold qkv_proj and gate_up_proj in one piece, which fused layers read as they are. Partial
 * rotation and LongRoPE come from config.json, as for every model (Abdin et al., 2024; vllm models/phi3.py).
 */
import { LlamaForCausalLM } from './llama';

export class Phi3ForCausalLM extends LlamaForCausalLM {}
