import type { VllmConfig } from '../config/vllm';
import { gatherRows } from '../ops/copy';
import { MAX_CANDIDATES } from '../ops/sampling';
import type { Sampler, SampleRows } from '../sampling/sampler';
import { NUM_CANDIDATES } from '../sampling/sampler-state';
import type { Device } from '../tensor/device';
import type { Tensor } from '../tensor/tensor';
import { Workspace } from '../tensor/workspace';
import type { RunnableModel } from './runnable-model';

/** How many candidates ranks may exchange; 0 stands for all logits. With one rank there is nothing to exchange. */
export function candidateCounts({ parallel }: VllmConfig): readonly number[] {
  const { tensorParallelSize } = parallel;
  const { greedy, topK } = NUM_CANDIDATES;
  return tensorParallelSize > 1 && tensorParallelSize * topK <= MAX_CANDIDATES ? [0, greedy, topK] : [0];
}

/**
 * What the tokens of a step are drawn from: all logits, or of several ranks the k largest of each (vllm LogitsProcessor
 * get_top_tokens). Owns a workspace for each k; they share one memory, since a step uses one of them.
 */
export class StepLogits {
  private readonly spaces = new Map([[0, new Workspace()]]);

  constructor(
    private readonly vllmConfig: VllmConfig,
    private readonly runnable: RunnableModel,
  ) {}

  /** Bytes of the memory, after {@link plan}. */
  get bytes(): number {
    return this.largest().bytes;
  }

  /**
   * Plans all that steps may need, after a planned forward: only then is it known whether the model offers its largest logits.
   * @param hiddenStates [numTokens, hiddenSize], at the largest batch as rows int32 [numRows]
   */
  plan(hiddenStates: Tensor, rows: Tensor): void {
    if (this.runnable.hasTopTokens()) for (const k of candidateCounts(this.vllmConfig)) if (k > 0) this.spaces.set(k, new Workspace());
    this.spaces.forEach((space, k) => space.plan(() => [this.compute(hiddenStates, rows, k)]));
  }

  /** Takes the memory from the device. */
  materialize(device: Device): void {
    const largest = this.largest();
    largest.materialize(device);
    for (const space of this.spaces.values()) if (space !== largest) space.share(largest);
  }

  /**
   * How many candidates of each rank a step of plain requests draws from, 0: all logits. Every rank knows the same requests and must come
   * to the same.
   */
  numCandidates(sampler: Sampler, states: readonly { readonly row: number }[], drawing: readonly number[]): number {
    return this.spaces.size === 1 ? 0 : sampler.numCandidates(drawing.map((index) => states[index]!));
  }

  /** float32 [numRows, vocabSize], or with k > 0 the candidates that {@link draw} takes. Valid until the next run, of any k. */
  run(hiddenStates: Tensor, rows: Tensor, k = 0): Tensor {
    return this.spaces.get(k)!.run(() => this.compute(hiddenStates, rows, k));
  }

  /** Frees everything. */
  dispose(): void {
    this.spaces.forEach((space) => space.dispose());
  }

  private compute(hiddenStates: Tensor, rows: Tensor, k: number): Tensor {
    const wanted = gatherRows(hiddenStates, rows);
    return k === 0 ? this.runnable.computeLogits(wanted) : this.runnable.computeTopTokens(wanted, k);
  }

  private largest(): Workspace {
    return Array.from(this.spaces.values()).reduce((a, b) => (b.bytes > a.bytes ? b : a));
  }
}

/** Queues drawing from what {@link StepLogits.run} gave for k. */
export function drawFrom(sampler: Sampler, logits: Tensor, k: number, at: SampleRows): void {
  if (k === 0) sampler.draw(logits, at);
  else sampler.drawTop(logits, at);
}
