/** The public API of Kvasir. */
export { LLM, type GenerateOptions, type LLMOptions } from './engine/llm';
export { AsyncLLM, type AsyncLLMOptions } from './engine/async-llm';
export { serveRank } from './engine/serve-rank';
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
export type { FinishReason, KVCacheGroupStats, SchedulerStats } from './core/types';
export type { Tokenizer } from './tokenizer/tokenizer';
export { ERRORS, KvasirError, type ErrorCode } from './utils/errors';

/** For writing models: modules, parallel layers, and the registry. */
export { initRegisteredModel, ModelRegistry } from './models/registry';
export { CausalLM } from './models/causal-lm';
export { embedInputIds, type Forward, type ForwardWithKvCaches, type ModelClass, type TextGenerationModel } from './models/interfaces';
export { extractLayerIndex, makeLayers, maybePrefix, Module } from './nn/module';
export { getPpIndices, makeStageLayers, PPMissingLayer, type PipelineStage } from './nn/pipeline';
export { IntermediateTensors } from './nn/intermediate-tensors';
export { AutoWeightsLoader, loadWeights, type LoadWeightsOptions, type StackedParam } from './nn/load-weights';
export { SamplerOutput } from './nn/sampler-output';
export { WeightsMapper, type WeightsMapperRules } from './nn/weights-mapper';
export { ConstantBuffer, Parameter, type LoadedWeight, type ParameterOptions, type ShardId, type WeightLoader } from './nn/parameter';
export { ColumnParallelLinear, ReplicatedLinear, RowParallelLinear } from './layers/linear';
export { MergedColumnParallelLinear, QKVParallelLinear } from './layers/merged-linear';
export { ParallelLMHead, VocabParallelEmbedding } from './layers/vocab-embedding';
export { LogitsProcessor } from './layers/logits-processor';
export { PagedAttention, PagedAttentionWithALiBi, PagedAttentionWithRoPE, type PagedAttentionOptions } from './layers/paged-attention';
export { Sampler } from './layers/sampler';
export { LayerNorm, RMSNorm } from './layers/norm';
export { PositionEmbedding } from './layers/position-embedding';
export { FusedMoE } from './layers/fused-moe';
export { gatedActivation, getActFn } from './layers/activation';
export { getRope, RotaryEmbedding } from './layers/rotary';
export { Attention, attentionDims, layerWindow, type AttentionDims, type AttentionOptions } from './layers/attention';
export { readHfBoolean, readHfField, readHfString, requireHfField } from './config/hf-fields';
export { add } from './layers/residual';
export { narrow, reshape, split } from './tensor/views';
export { Tensor } from './tensor/tensor';
