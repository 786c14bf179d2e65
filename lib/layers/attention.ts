import { getForwardContext } from '../attention/forward-context';
import type { AttentionMetadata } from '../attention/metadata';
import { layerWindows } from '../config/layer-windows';
import type { AttentionLayerSpec, KvCacheSpec, VllmConfig } from '../config/vllm';
import { checkFullName } from '../nn/full-name';
import { extractLayerIndex, Module } from '../nn/module';
import { pagedAttention } from '../ops/attention';
import { kvCacheWrite, NO_SCALES, type KvScales } from '../ops/cache';
import { contiguousStrides, Tensor } from '../tensor/tensor';
import { reshape } from '../tensor/views';
import { KvasirError } from '../utils/errors';
import { kvCacheDtypeOf, kvScaleParameters, mayHaveKvScales, takeKvScales, type KvScaleParameters } from './kv-scales';
import { headShard } from './shard';

/** Sizes of attention: whole-model widths for the projections, and what one rank holds. */
export interface AttentionDims {
  readonly hiddenSize: number;
  readonly headDim: number;
  readonly totalNumHeads: number;
  readonly totalNumKvHeads: number;
  readonly numHeads: number;
  readonly numKvHeads: number;
  /** Widths of q, k and v on this rank. */
  readonly qkvSizes: readonly [number, number, number];
  /** Softmax scale, 1 / sqrt(headDim). */
  readonly scale: number;
}

/** The attention sizes of a model on this rank. */
export function attentionDims(vllmConfig: VllmConfig): AttentionDims {
  const { hiddenSize, headDim, numAttentionHeads, numKeyValueHeads } = vllmConfig.model;
  const heads = headShard(numAttentionHeads, numKeyValueHeads, vllmConfig.parallel.tensorParallelSize, 'attention');
  return {
    hiddenSize,
    headDim,
    totalNumHeads: numAttentionHeads,
    totalNumKvHeads: numKeyValueHeads,
    numHeads: heads.numHeads,
    numKvHeads: heads.numKvHeads,
    qkvSizes: [heads.numHeads * headDim, heads.numKvHeads * headDim, heads.numKvHeads * headDim],
    scale: 1 / Math.sqrt(headDim),
  };
}

/**
 * What a layer of any model passes as `perLayerSlidingWindow`: its own window where layers differ, by the layer's number in `prefix`;
 * else undefined, the window of the model.
 */
export function layerWindow({ model }: VllmConfig, prefix: string): number | null | undefined {
  if (model.interleavedSlidingWindow === null) return undefined;
  return layerWindows(model.hfConfig, model.numHiddenLayers)[extractLayerIndex(prefix)];
}

export interface AttentionOptions {
  readonly numHeads: number;
  readonly headDim: number;
  readonly scale: number;
  /** Default: numHeads. */
  readonly numKvHeads?: number;
  /** float32 [numHeads] on the device. */
  readonly alibiSlopes?: Tensor;
  /** Logits become cap * tanh(logits / cap). */
  readonly logitsSoftCap?: number;
  /** Window of this layer in tokens; undefined falls back to the model-wide window, null means none. */
  readonly perLayerSlidingWindow?: number | null;
  /** float32 [numHeads]: an extra logit in the denominator. */
  readonly sinks?: Tensor;
}

/**
 * Attention over the paged KV cache (Kwon et al., 2023; vllm Attention). Registers itself in the configuration under its
 * full prefix, by which the worker gives it its cache; the metadata of the step comes from the forward context.
 */
export class Attention extends Module implements AttentionLayerSpec {
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly slidingWindow: number | null;
  /** [numBlocks, 2, numKvHeads, blockSize, headDim]; without memory until the worker binds it. */
  readonly kvCache: Tensor;
  /** Number of the KV cache group whose block table and slots this layer uses; the worker sets it. */
  kvCacheGroup = 0;
  /** What keys and values of a float8_e4m3 cache are divided by; known once the weights are loaded. */
  scales: KvScales = NO_SCALES;
  /** Until the weights are loaded. */
  private scaleParameters: KvScaleParameters | null;
  /** A float8_e4m3 cache without scales of its own: what does not fit is cut. */
  private guessesScales = false;

  constructor(
    private readonly vllmConfig: VllmConfig,
    private readonly options: AttentionOptions,
    prefix: string,
  ) {
    super(prefix);
    checkFullName(prefix, 'an attention layer');
    this.numKvHeads = options.numKvHeads ?? options.numHeads;
    this.headDim = options.headDim;
    if (options.numHeads % this.numKvHeads !== 0)
      throw new KvasirError('ERR_KVASIR_LAYER', `${prefix}: ${options.numHeads} heads are not a multiple of ${this.numKvHeads} KV heads`);
    this.slidingWindow = options.perLayerSlidingWindow === undefined ? vllmConfig.model.slidingWindow : options.perLayerSlidingWindow;
    if (vllmConfig.staticForwardContext.has(prefix))
      throw new KvasirError('ERR_KVASIR_LAYER', `two attention layers have the prefix "${prefix}": every layer needs its full, unique name`);
    vllmConfig.staticForwardContext.set(prefix, this);
    const shape = [0, 2, this.numKvHeads, vllmConfig.cache.blockSize, this.headDim];
    this.kvCache = Tensor.view(null, kvCacheDtypeOf(vllmConfig), 0, shape, contiguousStrides(shape));
    this.scaleParameters = mayHaveKvScales(vllmConfig) ? kvScaleParameters(prefix) : null;
  }

  get layerName(): string {
    return this.prefix;
  }

  /** What its KV cache has to keep (vllm get_kv_cache_spec): all tokens, or only those that the window still covers. */
  getKvCacheSpec(): KvCacheSpec {
    const { numKvHeads, headDim, slidingWindow } = this;
    return slidingWindow === null ? { kind: 'full', numKvHeads, headDim } : { kind: 'slidingWindow', numKvHeads, headDim, slidingWindow };
  }

  /** Takes the scales of a float8_e4m3 cache from the checkpoint (vllm BaseKVCacheMethod.process_weights_after_loading). */
  override async processWeightsAfterLoading(): Promise<void> {
    if (this.scaleParameters === null) return;
    const scales = await takeKvScales(this.prefix, this.scaleParameters);
    this.scaleParameters = null;
    if (this.kvCache.dtype !== 'float8_e4m3') return;
    this.scales = scales ?? NO_SCALES;
    this.guessesScales = scales === null;
    if (this.guessesScales) this.warnOfScales();
  }

  /** Once for all layers of a model. */
  private warnOfScales(): void {
    const { staticForwardContext, load } = this.vllmConfig;
    const first = Array.from(staticForwardContext.values()).find((layer) => layer instanceof Attention && layer.guessesScales);
    if (first !== this || load.loadFormat === 'dummy') return;
    const text = 'the KV cache holds float8_e4m3, but the checkpoint has no scales for its keys and values: 1 is used, which may cost accuracy';
    process.emitWarning(text, { code: 'KVASIR_KV_CACHE_SCALE' });
  }

  /**
   * q [numTokens, numHeads * headDim], k and v [numTokens, numKvHeads * headDim] (rows may lie apart)
   * -> [numTokens, numHeads * headDim]. k and v are written to the cache first.
   *
   * Cache and metadata come from the layer and the forward context; models of the time when they were arguments may pass them on.
   */
  forward(q: Tensor, k: Tensor, v: Tensor, kvCache: Tensor = this.kvCache, attention: AttentionMetadata = getForwardContext().attention): Tensor {
    if (kvCache !== this.kvCache)
      throw new KvasirError('ERR_KVASIR_LAYER', `${this.prefix}: received the KV cache of another layer; kvCaches[i] belongs to the attention layer that was made as number i`);
    const step = attention.groups === undefined ? attention : attention.groups[this.kvCacheGroup]!;
    const { numHeads, scale, logitsSoftCap, alibiSlopes, sinks } = this.options;
    const heads = (x: Tensor, count: number): Tensor => (x.rank === 3 ? x : reshape(x, [x.size(0), count, this.headDim]));
    kvCacheWrite(this.kvCache, heads(k, this.numKvHeads), heads(v, this.numKvHeads), step.slotMapping, this.scales);
    const out = pagedAttention(heads(q, numHeads), this.kvCache, step, {
      scale,
      slidingWindow: this.slidingWindow ?? 0,
      logitsSoftCap: logitsSoftCap ?? 0,
      alibiSlopes: alibiSlopes ?? null,
      sinks: sinks ?? null,
      scales: this.scales,
    });
    return reshape(out, [q.size(0), numHeads * this.headDim]);
  }
}
