/** The public API of Kvasir. */
export { LLM, type GenerateOptions, type LLMOptions } from './engine/llm';
export { AsyncLLM, type AsyncLLMOptions } from './engine/async-llm';
export type { ChatOptions, RequestOptions, StreamOptions } from './engine/engine-base';
export type { CreateOptions } from './engine/create';
export type { LoadProgress } from './engine/engine-core';
export type {
  CompletionOutput,
  LogprobEntry,
  LogprobsAtPosition,
  PromptInput,
  RequestMetrics,
  RequestOutput,
  TextPrompt,
  TokensPrompt,
} from './engine/outputs';
export type { SamplingParams } from './sampling/params';
export type { ChatMessage, TextPart } from './chat/messages';
export type { EngineArgs } from './config/options';
export type { VllmConfig } from './config/vllm';
export type { ModelConfig } from './config/model';
export type { FinishReason, SchedulerStats } from './core/types';
export type { Tokenizer } from './tokenizer/tokenizer';
export { ERRORS, KvasirError, type ErrorCode } from './utils/errors';

/** For writing models: modules, parallel layers, and the registry. */
export { ModelRegistry } from './models/registry';
export type { ModelClass, TextGenerationModel } from './models/interfaces';
export { makeLayers, maybePrefix, Module } from './nn/module';
export { loadWeights, type LoadWeightsOptions } from './nn/load-weights';
export { Parameter, type LoadedWeight, type ShardId, type WeightLoader } from './nn/parameter';
export { ColumnParallelLinear, ReplicatedLinear, RowParallelLinear } from './layers/linear';
export { MergedColumnParallelLinear, QKVParallelLinear } from './layers/merged-linear';
export { ParallelLMHead, VocabParallelEmbedding } from './layers/vocab-embedding';
export { LogitsProcessor } from './layers/logits-processor';
export { RMSNorm } from './layers/norm';
export { gatedActivation } from './layers/activation';
export { getRope, RotaryEmbedding } from './layers/rotary';
export { Attention, attentionDims, type AttentionDims } from './layers/attention';
export { readHfBoolean, readHfField, readHfString, requireHfField } from './config/hf-fields';
export { narrow, reshape, split } from './tensor/views';
export { Tensor } from './tensor/tensor';
