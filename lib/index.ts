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
