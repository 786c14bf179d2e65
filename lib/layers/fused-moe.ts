import type { VllmConfig } from '../config/vllm';
import { tensorParallelAllReduce } from '../distributed/communicator';
import { Module } from '../nn/module';
import { Parameter, type LoadedWeight, type ShardId, type WeightLoader } from '../nn/parameter';
import { canPackLinear, PACK_ROWS } from '../ops/gemm';
import { moeAlign, moeCombine, moeLinear, moeRouting, packExperts } from '../ops/moe';
import type { QuantizationConfig } from '../quantization/method';
import type { Tensor } from '../tensor/tensor';
import { KvasirError } from '../utils/errors';
import { gatedActivation } from './activation';
import { takeSpan } from './linear-loader';
import { mergedShard, rankSpan } from './shard';

export interface FusedMoEOptions {
  readonly numExperts: number;
  /** Experts per token. */
  readonly topK: number;
  readonly hiddenSize: number;
  /** Width of one expert's MLP. */
  readonly intermediateSize: number;
  /** Divide the weights of a token's experts by their sum. Default true, as in vLLM. */
  readonly renormalize?: boolean;
  /** Gated activation by its name in config.json. Default silu. */
  readonly hiddenAct?: string;
  /** Sum over ranks (all-reduce). Default true. */
  readonly reduceResults?: boolean;
  /** Names of an expert's projections in the checkpoint. Default gate_proj, up_proj, down_proj. */
  readonly projNames?: readonly [gate: string, up: string, down: string];
}

const PROJ_NAMES = ['gate_proj', 'up_proj', 'down_proj'] as const;

/**
 * A mixture of gated MLPs (Shazeer et al., 2017; vllm FusedMoE): each token goes through its topK experts, and their outputs are summed
 * with the router's weights. All experts of a rank are two parameters, w13 [experts, 2 * size, hiddenSize] (gates, then ups) and
 * w2 [experts, hiddenSize, size]; the intermediate size is cut over ranks. The checkpoint has `prefix.{expert}.{projection}.weight`.
 */
export class FusedMoE extends Module {
  readonly w13: Parameter;
  readonly w2: Parameter;
  private readonly act: (x: Tensor) => Tensor;

  constructor(
    private readonly vllmConfig: VllmConfig,
    private readonly options: FusedMoEOptions,
    prefix: string,
  ) {
    super(prefix);
    const { numExperts, topK, hiddenSize, intermediateSize } = options;
    if (topK < 1 || topK > numExperts) throw new KvasirError('ERR_KVASIR_LAYER', `${prefix}: expected topK from 1 to the ${numExperts} experts, received ${topK}`);
    const { tensorParallelSize: tp, tpRank } = vllmConfig.parallel;
    const span = rankSpan(intermediateSize, tpRank, tp, `${prefix}: intermediate size over ranks`);
    this.act = gatedActivation(options.hiddenAct ?? 'silu');
    const [gate, up, down] = options.projNames ?? PROJ_NAMES;
    this.requireUnquantized([gate, up, down]);
    const loadGateUp = this.expertLoader(2, (param, loaded, expert, part) => {
      const { source, dest } = mergedShard([intermediateSize, intermediateSize], part, tpRank, tp, prefix);
      param.copyMatrix(takeSpan(param, loaded, 0, intermediateSize, source), expert, dest.start, dest.size);
    });
    const loadDown = this.expertLoader(1, (param, loaded, expert) => param.copyMatrix(takeSpan(param, loaded, 1, intermediateSize, span), expert));
    this.w13 = this.expertWeights('w13_weight', [2 * span.size, hiddenSize], [gate, up], loadGateUp);
    this.w2 = this.expertWeights('w2_weight', [hiddenSize, span.size], [down], loadDown);
  }

  /** hiddenStates [numTokens, hiddenSize], routerLogits [numTokens, numExperts] -> [numTokens, hiddenSize] */
  forward(hiddenStates: Tensor, routerLogits: Tensor): Tensor {
    const { numExperts, topK, renormalize, reduceResults } = this.options;
    const numPairs = hiddenStates.size(0) * topK;
    const routing = moeRouting(routerLogits, topK, renormalize ?? true);
    const blocks = moeAlign(routing.experts, numExperts);
    const inner = this.act(moeLinear(hiddenStates, this.w13.tensor, blocks, numPairs, this.w13.shape[1]!));
    const outputs = moeLinear(inner, this.w2.tensor, blocks, numPairs, this.w2.shape[1]!);
    const out = moeCombine(outputs, routing, numExperts);
    return (reduceResults ?? true) ? tensorParallelAllReduce(this.vllmConfig.parallel, out) : out;
  }

  /** Expert `e` takes the tensors of its projections, with the shard ids e * (number of projections) + (which one). */
  private expertWeights(name: string, [rows, columns]: readonly [number, number], projections: readonly string[], weightLoader: WeightLoader): Parameter {
    const { numExperts } = this.options;
    const { dtype } = this.vllmConfig.model;
    const sources = Array.from({ length: numExperts * projections.length }, (_, shardId) => {
      const expert = Math.floor(shardId / projections.length);
      return { name: `${this.prefix}.${expert}.${projections[shardId % projections.length]!}.weight`, shardId };
    });
    const canPack = canPackLinear(dtype, columns);
    return new Parameter(`${this.prefix}.${name}`, [numExperts, rows, columns], dtype, {
      sources,
      weightLoader,
      paddedRows: canPack ? -rows & (PACK_ROWS - 1) : 0,
      onLoaded: ({ tensor }) => {
        if (canPack) packExperts(tensor);
      },
    });
  }

  private expertLoader(projections: number, load: (param: Parameter, loaded: LoadedWeight, expert: number, projection: number) => void): WeightLoader {
    return (param, loaded, shardId: ShardId) => {
      if (typeof shardId !== 'number' || shardId < 0 || shardId >= this.options.numExperts * projections)
        throw new KvasirError('ERR_KVASIR_LAYER', `${this.prefix}: shard id must be the index of an expert's projection, got ${String(shardId)}`);
      load(param, loaded, Math.floor(shardId / projections), shardId % projections);
    };
  }

  /** Experts have no quantized kernels. */
  private requireUnquantized(projections: readonly string[]): void {
    const { prefix, options } = this;
    const config = this.vllmConfig.quantization as QuantizationConfig;
    const parts = Array.from({ length: options.numExperts }, (_, e) => projections.map((name) => `${prefix}.${e}.${name}`)).flat();
    if (config.getQuantMethod({ kind: 'moe', className: 'FusedMoE', parts }, prefix)?.fullPrecision) return;
    throw new KvasirError('ERR_KVASIR_UNSUPPORTED', `${prefix}: quantization "${config.name}" of mixtures of experts is not supported; expected experts in full precision`);
  }
}
