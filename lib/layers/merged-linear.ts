import type { VllmConfig } from '../config/vllm';
import { tensorParallelAllGather } from '../distributed/communicator';
import type { Tensor } from '../tensor/tensor';
import { LinearBase } from './linear-base';
import { uncut } from './linear-loader';
import { fullPartNames } from './packed-names';
import { headShard, mergedShard, qkvShard, type HeadShard, type QkvId } from './shard';

export interface MergedColumnParallelOptions {
  readonly inputSize: number;
  /** Whole-model width of each part. */
  readonly outputSizes: readonly number[];
  readonly bias?: boolean;
  readonly skipBiasAdd?: boolean;
  readonly gatherOutput?: boolean;
  /** Names of the parts in the checkpoint, beside the layer; default by the layer's own name (gate_up_proj: gate_proj, up_proj). */
  readonly partNames?: readonly string[];
}

/** Several column-parallel layers with one input as one multiplication (vllm MergedColumnParallelLinear). */
export class MergedColumnParallelLinear extends LinearBase {
  private readonly gatherOutput: boolean;

  constructor(vllmConfig: VllmConfig, options: MergedColumnParallelOptions, prefix: string) {
    const { inputSize, outputSizes } = options;
    const { tensorParallelSize: tp, tpRank } = vllmConfig.parallel;
    const outputSize = outputSizes.reduce((a, b) => a + b, 0);
    const names = fullPartNames(prefix, outputSizes.length, options.partNames);
    const parts = outputSizes.map((whole, id) => ({ id, whole, ...mergedShard(outputSizes, id, tpRank, tp, prefix) }));
    super(vllmConfig, { ...options, outputSize }, { shards: { parts, input: uncut(inputSize) }, names }, prefix);
    this.gatherOutput = options.gatherOutput ?? false;
  }

  /** x [numTokens, inputSize] -> [numTokens, sum(outputSizes) / ranks]: the parts side by side. */
  forward(x: Tensor): Tensor {
    const out = this.apply(x, this.bias);
    return this.gatherOutput ? tensorParallelAllGather(this.vllmConfig.parallel, out) : out;
  }
}

export interface QKVParallelOptions {
  readonly hiddenSize: number;
  readonly headDim: number;
  readonly totalNumHeads: number;
  /** Default: totalNumHeads. */
  readonly totalNumKvHeads?: number;
  /** Default: headDim. */
  readonly vHeadDim?: number;
  readonly bias?: boolean;
  readonly skipBiasAdd?: boolean;
  /** Names of q, k and v in the checkpoint; default q_proj, k_proj, v_proj beside the layer. Its own name three times: they are one tensor there. */
  readonly partNames?: readonly string[];
}

/** Query, key and value projections as one multiplication; KV heads are replicated when there are fewer than ranks (vllm QKVParallelLinear). */
export class QKVParallelLinear extends LinearBase {
  readonly heads: HeadShard;

  constructor(vllmConfig: VllmConfig, options: QKVParallelOptions, prefix: string) {
    const { hiddenSize, headDim, totalNumHeads } = options;
    const { tensorParallelSize: tp, tpRank } = vllmConfig.parallel;
    const totalNumKvHeads = options.totalNumKvHeads ?? totalNumHeads;
    const vHeadDim = options.vHeadDim ?? headDim;
    const heads = headShard(totalNumHeads, totalNumKvHeads, tp, prefix);
    const ids: readonly QkvId[] = ['q', 'k', 'v'];
    const names = fullPartNames(prefix, 3, options.partNames);
    const whole = { q: totalNumHeads * headDim, k: totalNumKvHeads * headDim, v: totalNumKvHeads * vHeadDim };
    const parts = ids.map((id) => ({ id, whole: whole[id], ...qkvShard(id, heads, headDim, vHeadDim, tpRank) }));
    const outputSize = parts.reduce((sum, { dest }) => sum + dest.size, 0) * tp; // counts the replicas
    super(vllmConfig, { ...options, inputSize: hiddenSize, outputSize }, { shards: { parts, input: uncut(hiddenSize) }, names }, prefix);
    this.heads = heads;
  }

  /** x [numTokens, hiddenSize] -> [numTokens, (numHeads + numKvHeads) * headDim + numKvHeads * vHeadDim] of this rank. */
  forward(x: Tensor): Tensor {
    return this.apply(x, this.bias);
  }
}
