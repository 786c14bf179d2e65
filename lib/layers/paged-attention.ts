/**
 * The attention layers of the first vLLM versions, for models written in their style (vllm 0.1 to 0.3, model_executor/layers/attention.py).
 * All are today's {@link Attention}: the cache and the metadata that a model passes on are those that the layer would find itself.
 */
import type { AttentionMetadata } from '../attention/metadata';
import type { VllmConfig } from '../config/vllm';
import { Module } from '../nn/module';
import { ConstantBuffer } from '../nn/parameter';
import type { Tensor } from '../tensor/tensor';
import { KvasirError } from '../utils/errors';
import { Attention, type AttentionOptions } from './attention';
import { getRope, type RopeOptions, type RotaryEmbedding } from './rotary';

export interface PagedAttentionOptions extends Pick<AttentionOptions, 'numHeads' | 'headDim' | 'scale' | 'numKvHeads' | 'logitsSoftCap'> {
  readonly slidingWindow?: number | null;
}

/** Attention over the paged cache; see {@link Attention}. */
export class PagedAttention extends Attention {
  constructor(vllmConfig: VllmConfig, options: PagedAttentionOptions & Pick<AttentionOptions, 'alibiSlopes'>, prefix: string) {
    const { slidingWindow, ...rest } = options;
    super(vllmConfig, { ...rest, perLayerSlidingWindow: slidingWindow }, prefix);
  }
}

/** PagedAttention that rotates q and k (in place) by their positions first. */
export class PagedAttentionWithRoPE extends Module {
  private readonly attn: PagedAttention;
  private readonly rotaryEmb: RotaryEmbedding;

  constructor(vllmConfig: VllmConfig, options: PagedAttentionOptions & Omit<RopeOptions, 'headDim'>, prefix: string) {
    super(prefix);
    const { isNeoxStyle, rotaryDim, layerType, ...rest } = options;
    this.attn = new PagedAttention(vllmConfig, rest, prefix);
    this.rotaryEmb = getRope(vllmConfig, { headDim: options.headDim, isNeoxStyle, rotaryDim, layerType });
  }

  /** As {@link Attention.forward}, with positions int32 [numTokens] first. */
  forward(positions: Tensor, q: Tensor, k: Tensor, v: Tensor, kvCache?: Tensor, attnMetadata?: AttentionMetadata): Tensor {
    this.rotaryEmb.forward(positions, q, k);
    return this.attn.forward(q, k, v, kvCache, attnMetadata);
  }
}

/** PagedAttention with linear biases (Press et al., 2022). */
export class PagedAttentionWithALiBi extends PagedAttention {
  private readonly slopes: ConstantBuffer;

  /** @param slopes one for each of this rank's heads */
  constructor(vllmConfig: VllmConfig, options: PagedAttentionOptions, slopes: readonly number[], prefix: string) {
    if (slopes.length !== options.numHeads)
      throw new KvasirError('ERR_KVASIR_LAYER', `${prefix}: expected one ALiBi slope for each of ${options.numHeads} heads, received ${slopes.length}`);
    const buffer = new ConstantBuffer([slopes.length], 'float32', () => Float32Array.from(slopes));
    super(vllmConfig, { ...options, alibiSlopes: buffer.tensor }, prefix);
    this.slopes = buffer;
  }
}
