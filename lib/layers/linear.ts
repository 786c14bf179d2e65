import type { VllmConfig } from '../config/vllm';
import { tensorParallelAllGather, tensorParallelAllReduce } from '../distributed/communicator';
import type { Tensor } from '../tensor/tensor';
import { narrow } from '../tensor/views';
import { KvasirError } from '../utils/errors';
import { LinearBase, type LinearOptions } from './linear-base';
import { singlePart, uncut } from './linear-loader';
import { rankSpan, type Span } from './shard';

/** The whole weight on every rank (vllm ReplicatedLinear). */
export class ReplicatedLinear extends LinearBase {
  constructor(vllmConfig: VllmConfig, options: LinearOptions, prefix: string) {
    super(vllmConfig, options, { shards: singlePart(uncut(options.outputSize), uncut(options.inputSize)) }, prefix);
  }

  /** x [numTokens, inputSize] -> [numTokens, outputSize] */
  forward(x: Tensor): Tensor {
    return this.apply(x, this.bias);
  }
}

export interface ColumnParallelOptions extends LinearOptions {
  /** Every rank gets the whole output (all-gather). Default false: each keeps its columns. */
  readonly gatherOutput?: boolean;
}

/** Output features cut over ranks (vllm ColumnParallelLinear). */
export class ColumnParallelLinear extends LinearBase {
  private readonly gatherOutput: boolean;

  constructor(vllmConfig: VllmConfig, options: ColumnParallelOptions, prefix: string) {
    const { inputSize, outputSize } = options;
    const { tensorParallelSize, tpRank } = vllmConfig.parallel;
    const span = rankSpan(outputSize, tpRank, tensorParallelSize, `${prefix}: output size over ranks`);
    super(vllmConfig, options, { shards: singlePart({ whole: outputSize, span }, uncut(inputSize)) }, prefix);
    this.gatherOutput = options.gatherOutput ?? false;
  }

  /** x [numTokens, inputSize] -> [numTokens, outputSize / ranks], or the whole width with gatherOutput. */
  forward(x: Tensor): Tensor {
    const out = this.apply(x, this.bias);
    return this.gatherOutput ? tensorParallelAllGather(this.vllmConfig.parallel, out) : out;
  }
}

export interface RowParallelOptions extends LinearOptions {
  /** Sum over ranks (all-reduce). Default true. */
  readonly reduceResults?: boolean;
  /** The input is this rank's part already. Default true; with false, every rank is given all of it and takes its part. */
  readonly inputIsParallel?: boolean;
}

/** Input features cut over ranks (vllm RowParallelLinear). */
export class RowParallelLinear extends LinearBase {
  private readonly reduceResults: boolean;
  private readonly inputIsParallel: boolean;
  private readonly span: Span;

  constructor(vllmConfig: VllmConfig, options: RowParallelOptions, prefix: string) {
    const { inputSize, outputSize } = options;
    const { tensorParallelSize, tpRank } = vllmConfig.parallel;
    const reduceResults = options.reduceResults ?? true;
    if (!reduceResults && (options.bias ?? true) && !options.skipBiasAdd)
      throw new KvasirError('ERR_KVASIR_LAYER', `${prefix}: with reduceResults false a bias would be added on every rank; pass bias: false or skipBiasAdd: true`);
    const span = rankSpan(inputSize, tpRank, tensorParallelSize, `${prefix}: input size over ranks`);
    super(vllmConfig, options, { shards: singlePart(uncut(outputSize), { whole: inputSize, span }) }, prefix);
    this.reduceResults = reduceResults;
    this.inputIsParallel = options.inputIsParallel ?? true;
    this.span = span;
  }

  /** x [numTokens, inputSize / ranks], or the whole width without inputIsParallel -> [numTokens, outputSize] */
  forward(x: Tensor): Tensor {
    const mine = this.inputIsParallel ? x : narrow(x, 1, this.span.start, this.span.size);
    // The bias is whole on every rank and must enter the sum once.
    const out = this.apply(mine, this.vllmConfig.parallel.tpRank === 0 ? this.bias : null);
    return this.reduceResults ? tensorParallelAllReduce(this.vllmConfig.parallel, out) : out;
  }
}
