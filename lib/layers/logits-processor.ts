import type { VllmConfig } from '../config/vllm';
import { tensorParallelAllGather } from '../distributed/communicator';
import { narrow } from '../tensor/views';
import type { Tensor } from '../tensor/tensor';
import type { ParallelLMHead } from './vocab-embedding';

/** Hidden states to logits over the whole vocabulary (vllm LogitsProcessor). */
export class LogitsProcessor {
  constructor(
    private readonly vllmConfig: VllmConfig,
    private readonly vocabSize: number,
  ) {}

  /** hiddenStates [numRows, hiddenSize] -> float32 [numRows, vocabSize] */
  forward(lmHead: ParallelLMHead, hiddenStates: Tensor): Tensor {
    const logits = tensorParallelAllGather(this.vllmConfig.parallel, lmHead.logits(hiddenStates));
    return logits.size(1) === this.vocabSize ? logits : narrow(logits, 1, 0, this.vocabSize);
  }
}
