import type { VllmConfig } from '../config/vllm';
import { tensorParallelAllGather } from '../distributed/communicator';
import type { WeightLoader, WeightSource } from '../nn/parameter';
import type { Tensor } from '../tensor/tensor';
import { KvasirError } from '../utils/errors';
import { LinearBase, takeSpan } from './linear-base';
import { partNames, siblingSources } from './packed-names';
import { divide, headShard, mergedShard, qkvShard, type HeadShard, type QkvId } from './shard';

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
    const names = partNames(prefix, outputSizes.length, options.partNames);
    const sources = (t: string): readonly WeightSource[] => siblingSources(prefix, t, names, outputSizes.map((_, i) => i));
    const loadPart: WeightLoader = (param, loaded, shardId) => {
      if (typeof shardId !== 'number') throw new KvasirError('ERR_KVASIR_LAYER', `${prefix}: shard id must be the index of a part, got ${String(shardId)}`);
      const { source, dest } = mergedShard(outputSizes, shardId, tpRank, tp, prefix);
      param.copyShard(takeSpan(param, loaded, 0, outputSizes[shardId]!, source), 0, dest.start, dest.size);
    };
    const load = fusedOnDisk(outputSizes, (i) => i, loadPart);
    const partition = { inputSizePerPartition: inputSize, outputPartitionSizes: outputSizes.map((s) => divide(s, tp, `${prefix}: part over ranks`)), inputSize, outputSize };
    super(vllmConfig, { ...options, outputSize }, partition, prefix, sources, { weight: load, bias: load });
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
  /** Names of q, k and v in the checkpoint; default q_proj, k_proj, v_proj beside the layer. */
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
    const names = partNames(prefix, 3, options.partNames);
    const whole = [totalNumHeads * headDim, totalNumKvHeads * headDim, totalNumKvHeads * vHeadDim];
    const loadPart: WeightLoader = (param, loaded, shardId) => {
      if (shardId !== 'q' && shardId !== 'k' && shardId !== 'v')
        throw new KvasirError('ERR_KVASIR_LAYER', `${prefix}: shard id must be "q", "k" or "v", got ${String(shardId)}`);
      const { source, dest } = qkvShard(shardId, heads, headDim, vHeadDim, tpRank);
      param.copyShard(takeSpan(param, loaded, 0, whole[ids.indexOf(shardId)]!, source), 0, dest.start, dest.size);
    };
    const load = fusedOnDisk(whole, (i) => ids[i]!, loadPart);
    const sizes = ids.map((id) => qkvShard(id, heads, headDim, vHeadDim, tpRank).dest.size);
    const outputSize = sizes.reduce((a, b) => a + b, 0) * tp;
    const partition = { inputSizePerPartition: hiddenSize, outputPartitionSizes: sizes, inputSize: hiddenSize, outputSize };
    super(vllmConfig, { ...options, inputSize: hiddenSize, outputSize }, partition, prefix, (t) => siblingSources(prefix, t, names, ids), { weight: load, bias: load });
    this.heads = heads;
  }

  /** x [numTokens, hiddenSize] -> [numTokens, (numHeads + numKvHeads) * headDim + numKvHeads * vHeadDim] of this rank. */
  forward(x: Tensor): Tensor {
    return this.apply(x, this.bias);
  }
}

/** A loader for parts that also takes the checkpoint tensor with all parts fused (shard id null): it is cut by whole sizes. */
function fusedOnDisk<Id extends QkvId | number>(wholeSizes: readonly number[], idOf: (part: number) => Id, loadPart: WeightLoader): WeightLoader {
  return (param, loaded, shardId) => {
    if (shardId !== null) return loadPart(param, loaded, shardId);
    const total = wholeSizes.reduce((a, b) => a + b, 0);
    if (loaded.shape[0] !== total)
      throw new KvasirError('ERR_KVASIR_WEIGHTS', `${loaded.name} has ${loaded.shape[0]} rows, expected ${wholeSizes.join(' + ')} = ${total} for ${param.name}`);
    let start = 0;
    wholeSizes.forEach((size, part) => {
      loadPart(param, loaded.narrow(0, start, size), idOf(part));
      start += size;
    });
  };
}
