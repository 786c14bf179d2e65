import type { VllmConfig } from '../config/vllm';
import { ropeParameters } from '../config/rope';
import { Module } from '../nn/module';
import { ConstantBuffer } from '../nn/parameter';
import { computeRopeTable } from '../nn/rope-table';
import { normRope, rope, type HeadNorms } from '../ops/rope';
import type { Tensor } from '../tensor/tensor';
import { reshape } from '../tensor/views';
import { KvasirError } from '../utils/errors';
import type { RMSNorm } from './norm';

export interface RopeOptions {
  readonly headDim: number;
  /** Rotate halves (true, Llama) or neighbouring pairs (GPT-J). */
  readonly isNeoxStyle?: boolean;
  /** Elements of a head that rotate. Default: headDim * partial_rotary_factor. */
  readonly rotaryDim?: number;
  /** For models with other parameters per layer type (rope_parameters of transformers 5). */
  readonly layerType?: string;
}

/** Rotary position embedding (Su et al., 2021) with every scaling of config.json. One is shared by all layers of a model. */
export class RotaryEmbedding extends Module {
  readonly cosSin: ConstantBuffer;

  constructor(
    maxPosition: number,
    private readonly headDim: number,
    rotaryDim: number,
    private readonly isNeoxStyle: boolean,
    table: () => Float32Array,
  ) {
    super('');
    this.cosSin = new ConstantBuffer([maxPosition, rotaryDim], 'float32', table);
  }

  /**
   * Rotates q [numTokens, numHeads * headDim] and k [numTokens, numKvHeads * headDim] in place; their rows may lie apart.
   * positions: int32 [numTokens]. qNorm and kNorm normalise every head by itself before (Qwen 3), in the same kernel.
   * @throws ERR_KVASIR_LAYER for one norm without the other, or norms of which one has another eps
   */
  forward(positions: Tensor, q: Tensor, k: Tensor, qNorm: RMSNorm | null = null, kNorm: RMSNorm | null = null): void {
    const [queries, keys] = [this.heads(q), this.heads(k)];
    if (!qNorm && !kNorm) return rope(positions, queries, keys, this.cosSin.tensor, this.isNeoxStyle);
    normRope(positions, queries, keys, headNorms(qNorm, kNorm), this.cosSin.tensor, this.isNeoxStyle);
  }

  private heads(x: Tensor): Tensor {
    return reshape(x, [x.size(0), x.size(1) / this.headDim, this.headDim]);
  }
}

function headNorms(qNorm: RMSNorm | null, kNorm: RMSNorm | null): HeadNorms {
  const [q, k] = [qNorm?.options, kNorm?.options];
  const gemma = q?.gemma ?? false;
  if (!qNorm || !kNorm || q?.eps !== k?.eps || gemma !== (k?.gemma ?? false))
    throw new KvasirError('ERR_KVASIR_LAYER', `rotary embedding: expected norms of queries and keys with the same options, received ${JSON.stringify([q, k])}`);
  return { qWeight: qNorm.weight.tensor, kWeight: kNorm.weight.tensor, eps: qNorm.options.eps, gemma };
}

const shared = new WeakMap<VllmConfig, Map<string, RotaryEmbedding>>();

/** The rotary embedding of a model for these options; layers that ask for the same get the same (vllm get_rope). */
export function getRope(vllmConfig: VllmConfig, options: RopeOptions): RotaryEmbedding {
  const { hfConfig, maxModelLen } = vllmConfig.model;
  const parameters = ropeParameters(hfConfig, options.layerType);
  const rotaryDim = options.rotaryDim ?? Math.trunc(options.headDim * parameters.partialRotaryFactor);
  const isNeox = options.isNeoxStyle ?? true;
  const key = JSON.stringify([options.headDim, rotaryDim, isNeox, parameters]);
  const cache = shared.get(vllmConfig) ?? new Map<string, RotaryEmbedding>();
  shared.set(vllmConfig, cache);
  let embedding = cache.get(key);
  if (!embedding) {
    const scaling = {
      rope_type: parameters.ropeType,
      max_position_embeddings: hfConfig.max_position_embeddings,
      original_max_position_embeddings: hfConfig.original_max_position_embeddings, // Phi 3 has it outside of rope_scaling
      ...parameters.extra,
    };
    const table = (): Float32Array => computeRopeTable({ headDim: options.headDim, rotaryDim, maxPosition: maxModelLen, base: parameters.theta, scaling });
    embedding = new RotaryEmbedding(maxModelLen, options.headDim, rotaryDim, isNeox, table);
    cache.set(key, embedding);
  }
  return embedding;
}
