import type { VllmConfig } from '../config/vllm';
import { tensorParallelAllGather } from '../distributed/communicator';
import { scale, softCap } from '../ops/activation';
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
    const gathered = tensorParallelAllGather(this.vllmConfig.parallel, lmHead.logits(hiddenStates));
    const logits = gathered.size(1) === this.vocabSize ? gathered : narrow(gathered, 1, 0, this.vocabSize);
    if (this.options.softCap !== undefined) softCap(logits, this.options.softCap, logits);
    if (this.options.scale !== undefined) scale(logits, this.options.scale, logits);
    return logits;
  }
}
