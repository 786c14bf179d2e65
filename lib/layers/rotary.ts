import type { VllmConfig } from '../config/vllm';
import { ropeParameters } from '../config/rope';
import { Module } from '../nn/module';
import { ConstantBuffer } from '../nn/parameter';
import { computeRopeTable } from '../nn/rope-table';
import { rope } from '../ops/rope';
import type { Tensor } from '../tensor/tensor';
import { reshape } from '../tensor/views';

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
   * positions: int32 [numTokens].
   */
  forward(positions: Tensor, q: Tensor, k: Tensor): void {
    rope(positions, this.heads(q), this.heads(k), this.cosSin.tensor, this.isNeoxStyle);
  }

  private heads(x: Tensor): Tensor {
    return reshape(x, [x.size(0), x.size(1) / this.headDim, this.headDim]);
  }
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
