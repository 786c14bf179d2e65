import { KvasirError } from '../utils/errors';
import type { RopeTableOptions } from './rope-table';

/** What every rope type comes down to: cos and sin of position * inverse[i], times attentionFactor. */
export interface RopeFrequencies {
  /** [rotaryDim / 2], each rounded to float32. */
  readonly inverse: Float64Array;
  readonly attentionFactor: number;
}

/** The scaling object of config.json with checked reads; errors name the field. */
class Scaling {
  constructor(private readonly values: Readonly<Record<string, unknown>>) {}

  get type(): string {
    const type = this.values.rope_type ?? this.values.type ?? 'default';
    if (typeof type !== 'string') throw this.error('rope_type', 'a string', type);
    return type;
  }

  has(name: string): boolean {
    return this.values[name] !== undefined && this.values[name] !== null;
  }

  /** Present and not 0: both mean "not used" for mscale. */
  isSet(name: string): boolean {
    return this.has(name) && this.values[name] !== 0;
  }

  positive(name: string, fallback?: number): number {
    const value = this.has(name) ? this.values[name] : fallback;
    if (typeof value !== 'number' || !Number.isFinite(value) || value <= 0) throw this.error(name, 'a positive number', value);
    return value;
  }

  boolean(name: string, fallback: boolean): boolean {
    const value = this.has(name) ? this.values[name] : fallback;
    if (typeof value !== 'boolean') throw this.error(name, 'a boolean', value);
    return value;
  }

  positives(name: string, length: number): number[] {
    const value = this.values[name];
    const valid = Array.isArray(value) && value.length === length && value.every((x) => typeof x === 'number' && Number.isFinite(x) && x > 0);
    if (!valid) throw this.error(name, `a list of ${length} positive numbers`, Array.isArray(value) ? `${value.length} values: ${value}` : value);
    return value as number[];
  }

  error(name: string, expected: string, received: unknown): KvasirError {
    return new KvasirError('ERR_KVASIR_MODEL_CONFIG', `rope_scaling.${name} of config.json must be ${expected}, got ${String(received)}`);
  }
}

const f32 = Math.fround;

/** base^(2i / dim) for i < dim / 2, rounded as float32 arithmetic rounds. */
function periods(base: number, dim: number): Float64Array {
  return Float64Array.from({ length: dim / 2 }, (_, i) => f32(Math.pow(base, f32((2 * i) / dim))));
}

function reciprocal(values: Float64Array): Float64Array {
  return values.map((v) => f32(1 / v));
}

/** Frequencies by rope type, as `ROPE_INIT_FUNCTIONS` of transformers. Multimodal rope (mrope) is not supported. */
export function inverseFrequencies(options: RopeTableOptions): RopeFrequencies {
  const scaling = new Scaling(options.scaling ?? {});
  const type = scaling.type;
  if (type === 'mrope' || scaling.has('mrope_section'))
    throw new KvasirError('ERR_KVASIR_UNSUPPORTED', 'multimodal rotary embedding (mrope) is not implemented; expected one-dimensional positions');
  const plain = reciprocal(periods(options.base, options.rotaryDim));
  switch (type) {
    case 'default':
      return { inverse: plain, attentionFactor: 1 };
    case 'linear': {
      const factor = scaling.positive('factor');
      return { inverse: plain.map((v) => f32(v / factor)), attentionFactor: 1 };
    }
    case 'dynamic':
      return dynamic(options, scaling);
    case 'llama3':
      return { inverse: llama3(plain, options, scaling), attentionFactor: 1 };
    case 'yarn':
    case 'deepseek_yarn':
      return yarn(options, scaling);
    case 'longrope':
    case 'su':
      return longrope(options, scaling);
    default:
      throw new KvasirError(
        'ERR_KVASIR_UNSUPPORTED',
        `rope type "${type}" is not implemented; expected default, linear, dynamic, llama3, yarn or longrope`,
      );
  }
}

/** The context config.json announces, stretched or not. */
function maxPositionEmbeddings(options: RopeTableOptions, scaling: Scaling): number {
  return scaling.positive('max_position_embeddings', options.maxPosition);
}

/** The context the model was trained with before it was stretched. */
function originalMax(options: RopeTableOptions, scaling: Scaling): number {
  return scaling.positive('original_max_position_embeddings', maxPositionEmbeddings(options, scaling));
}

/**
 * NTK scaling of the base by the sequence length. The table is built once, for the longest sequence the engine admits: with
 * maxPosition up to the original length it is the unscaled one. `alpha` (Hunyuan) gives the stretch of the base directly.
 */
function dynamic(options: RopeTableOptions, scaling: Scaling): RopeFrequencies {
  const { rotaryDim: dim, base } = options;
  if (dim < 4) throw scaling.error('rope_type', 'other than dynamic for a rotary dimension below 4', dim);
  let stretch: number;
  if (scaling.has('alpha') && !scaling.has('factor')) {
    stretch = scaling.positive('alpha');
  } else {
    const factor = scaling.positive('factor');
    const original = originalMax(options, scaling);
    stretch = (factor * Math.max(options.maxPosition, original)) / original - (factor - 1);
  }
  return { inverse: reciprocal(periods(base * Math.pow(stretch, dim / (dim - 2)), dim)), attentionFactor: 1 };
}

/** Llama 3.1: long wavelengths are divided by the factor, short ones kept, those between blended. */
function llama3(plain: Float64Array, options: RopeTableOptions, scaling: Scaling): Float64Array {
  const factor = scaling.positive('factor');
  const low = scaling.positive('low_freq_factor');
  const high = scaling.positive('high_freq_factor');
  if (high <= low) throw scaling.error('high_freq_factor', `larger than low_freq_factor ${low}`, high);
  const original = originalMax(options, scaling);
  return plain.map((v) => {
    const wavelength = f32((2 * Math.PI) / v);
    if (wavelength > original / low) return f32(v / factor);
    if (wavelength < original / high) return v;
    const smooth = f32(f32(f32(original / wavelength) - low) / (high - low));
    return f32(f32(f32(f32(1 - smooth) * v) / factor) + f32(smooth * v));
  });
}

function mscaleOf(factor: number, mscale: number): number {
  return factor <= 1 ? 1 : 0.1 * mscale * Math.log(factor) + 1;
}

/** YaRN (Peng et al., 2023): a ramp between interpolated and original frequencies, and a temperature for attention. */
function yarn(options: RopeTableOptions, scaling: Scaling): RopeFrequencies {
  const { rotaryDim: dim, base } = options;
  const factor = scaling.positive('factor');
  const original = originalMax(options, scaling);
  const [low, high] = yarnRange(dim, base, original, scaling);
  const period = periods(base, dim);
  const inverse = period.map((p, i) => {
    const ramp = f32(Math.min(Math.max((i - low) / (high - low), 0), 1));
    const keep = f32(1 - ramp);
    return f32(f32(f32(1 / f32(factor * p)) * f32(1 - keep)) + f32(f32(1 / p) * keep));
  });
  return { inverse, attentionFactor: scaling.has('attention_factor') ? scaling.positive('attention_factor') : yarnAttention(factor, scaling) };
}

function yarnAttention(factor: number, scaling: Scaling): number {
  if (!scaling.isSet('mscale') || !scaling.isSet('mscale_all_dim')) return mscaleOf(factor, 1);
  return mscaleOf(factor, scaling.positive('mscale')) / mscaleOf(factor, scaling.positive('mscale_all_dim'));
}

/** Dimensions that make betaFast and betaSlow rotations over the original context: the ends of the ramp. */
function yarnRange(dim: number, base: number, original: number, scaling: Scaling): [number, number] {
  const fast = scaling.positive('beta_fast', 32);
  const slow = scaling.positive('beta_slow', 1);
  if (fast < slow) throw scaling.error('beta_fast', `at least beta_slow ${slow}`, fast);
  const dimensionOf = (rotations: number): number => (dim * Math.log(original / (rotations * 2 * Math.PI))) / (2 * Math.log(base));
  const truncate = scaling.boolean('truncate', true);
  const low = Math.max(truncate ? Math.floor(dimensionOf(fast)) : dimensionOf(fast), 0);
  const high = Math.min(truncate ? Math.ceil(dimensionOf(slow)) : dimensionOf(slow), dim - 1);
  return low === high ? [low, high + 0.001] : [low, high];
}

/**
 * LongRoPE (Phi 3): one factor per frequency, from the short or the long list. As in vLLM, the engine uses the long list for all
 * requests when it admits sequences beyond the original context, so that cached keys never mix both.
 */
function longrope(options: RopeTableOptions, scaling: Scaling): RopeFrequencies {
  const { rotaryDim: dim, base } = options;
  const original = originalMax(options, scaling);
  const isLong = options.maxPosition > original;
  const short = scaling.positives('short_factor', dim / 2);
  const long = scaling.positives('long_factor', dim / 2);
  const factors = isLong ? long : short;
  const inverse = periods(base, dim).map((p, i) => f32(1 / f32(f32(factors[i]!) * p)));
  return { inverse, attentionFactor: longropeAttention(options, scaling, original, isLong) };
}

function longropeAttention(options: RopeTableOptions, scaling: Scaling, original: number, isLong: boolean): number {
  const own = isLong ? 'long_mscale' : 'short_mscale';
  if (scaling.has(own)) return scaling.positive(own);
  if (scaling.has('attention_factor')) return scaling.positive('attention_factor');
  const factor = scaling.positive('factor', maxPositionEmbeddings(options, scaling) / original);
  return factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(original));
}
