/**
 * Mistral and Ministral: Llama with sliding-window attention in every layer or in some (Jiang et al., 2023; vllm models/mistral.py). The
 * windows come from config.json (layerWindows), for every model whose attention is Llama's.
 */
import { LlamaForCausalLM } from './llama';

export class MistralForCausalLM extends LlamaForCausalLM {}
