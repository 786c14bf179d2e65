import type { VllmConfig } from '../config/vllm';
import { Module } from '../nn/module';
import { SamplerOutput } from '../nn/sampler-output';
import type { Tensor } from '../tensor/tensor';
import { LogitsProcessor } from './logits-processor';
import type { ParallelLMHead } from './vocab-embedding';

/**
 * The sampler inside of a model, as the first vLLM versions had it (vllm 0.1 to 0.3, model_executor/layers/sampler.py). It draws
 * nothing itself: the worker asks its result for the logits of the rows that need them, and its one sampler draws.
 */
export class Sampler extends Module {
  private readonly logitsProcessor: LogitsProcessor;

  constructor(vllmConfig: VllmConfig, vocabSize: number) {
    super('');
    this.logitsProcessor = new LogitsProcessor(vllmConfig, vocabSize);
  }

  /** hiddenStates [numTokens, hiddenSize]; the metadata that models of that time pass on is not needed. */
  forward(lmHead: ParallelLMHead, hiddenStates: Tensor, _attnMetadata?: unknown): SamplerOutput {
    return new SamplerOutput(hiddenStates, (rows) => this.logitsProcessor.forward(lmHead, rows));
  }
}
