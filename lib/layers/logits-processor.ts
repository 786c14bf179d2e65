import type { VllmConfig } from '../config/vllm';
import { tensorParallelAllGather } from '../distributed/communicator';
import { scale, softCap } from '../ops/activation';
import { samplingTop } from '../ops/sampling';
import { narrow } from '../tensor/views';
import type { Tensor } from '../tensor/tensor';
import type { ParallelLMHead } from './vocab-embedding';

export interface LogitsProcessorOptions {
  /** Logits become cap * tanh(logits / cap) (Gemma 2). */
  readonly softCap?: number;
  /** Factor of the logits, after the soft cap. */
  readonly scale?: number;
}

/** Hidden states to logits over the whole vocabulary (vllm LogitsProcessor). */
export class LogitsProcessor {
  constructor(
    private readonly vllmConfig: VllmConfig,
    private readonly vocabSize: number,
    private readonly options: LogitsProcessorOptions = {},
  ) {}

  /** hiddenStates [numRows, hiddenSize] -> float32 [numRows, vocabSize] */
  forward(lmHead: ParallelLMHead, hiddenStates: Tensor): Tensor {
    const gathered = tensorParallelAllGather(this.vllmConfig.parallel, this.ownLogits(lmHead, hiddenStates));
    return gathered.size(1) === this.vocabSize ? gathered : narrow(gathered, 1, 0, this.vocabSize);
  }

  /**
   * The k largest logits of every rank's part of the vocabulary, or all where the parts have fewer (vllm LogitsProcessor get_top_tokens):
   * hiddenStates [numRows, hiddenSize] -> int32 [numRows, 2 * k * ranks], pairs of a logit's float32 bits and its token id as the sampler
   * takes them. The values are those of {@link forward}.
   */
  topTokens(lmHead: ParallelLMHead, hiddenStates: Tensor, k: number): Tensor {
    const { parallel } = this.vllmConfig;
    const logits = this.ownLogits(lmHead, hiddenStates);
    const width = logits.size(1);
    const firstId = parallel.tpRank * width;
    const numValid = Math.min(Math.max(this.vocabSize - firstId, 0), width);
    return tensorParallelAllGather(parallel, samplingTop(logits, Math.min(k, width), firstId, numValid));
  }

  /** Logits of this rank's rows of the vocabulary, padding included. */
  private ownLogits(lmHead: ParallelLMHead, hiddenStates: Tensor): Tensor {
    const logits = lmHead.logits(hiddenStates);
    if (this.options.softCap !== undefined) softCap(logits, this.options.softCap, logits);
    if (this.options.scale !== undefined) scale(logits, this.options.scale, logits);
    return logits;
  }
}
