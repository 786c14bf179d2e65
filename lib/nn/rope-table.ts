import { KvasirError } from '../utils/errors';
import { inverseFrequencies, type RopeFrequencies } from './rope-scaling';

export interface RopeTableOptions {
  readonly headDim: number;
  /** Rotated elements of a head: even, at most headDim. */
  readonly rotaryDim: number;
  /** Positions 0 .. maxPosition - 1 get a row: the engine's maxModelLen. */
  readonly maxPosition: number;
  /** rope_theta. */
  readonly base: number;
  /**
   * rope_scaling or rope_parameters of config.json (`rope_type` or `type`), or null. `max_position_embeddings` and
   * `original_max_position_embeddings` are read from here too; some models have them one level up (Phi 3).
   */
  readonly scaling?: Readonly<Record<string, unknown>> | null;
}

/**
 * Cosines and sines of rotary position embedding: float32 [maxPosition, rotaryDim], rotaryDim / 2 cosines, then as many sines.
 * Frequencies and angles are rounded to float32 as Hugging Face computes them (transformers/modeling_rope_utils.py), so that large
 * positions give the angles the models were run with.
 * @throws KvasirError ERR_KVASIR_MODEL_CONFIG for values that make no sense, ERR_KVASIR_UNSUPPORTED for an unknown rope type
 */
export function computeRopeTable(options: RopeTableOptions): Float32Array {
  checkSizes(options);
  return tableOf(inverseFrequencies(options), options.maxPosition);
}

function checkSizes({ headDim, rotaryDim, maxPosition, base }: RopeTableOptions): void {
  const bad = (sentence: string): never => {
    throw new KvasirError('ERR_KVASIR_MODEL_CONFIG', sentence);
  };
  if (!Number.isInteger(rotaryDim) || rotaryDim < 2 || rotaryDim % 2 !== 0 || rotaryDim > headDim)
    bad(`rope: the rotary dimension must be an even number from 2 to the head dimension ${headDim}, got ${rotaryDim}`);
  if (!Number.isInteger(maxPosition) || maxPosition < 1) bad(`rope: the number of positions must be a positive integer, got ${maxPosition}`);
  if (!(base > 0) || !Number.isFinite(base)) bad(`rope: rope_theta must be a positive number, got ${base}`);
}

function tableOf({ inverse, attentionFactor }: RopeFrequencies, maxPosition: number): Float32Array {
  const half = inverse.length;
  const table = new Float32Array(maxPosition * 2 * half);
  const factor = Math.fround(attentionFactor);
  for (let position = 0; position < maxPosition; position++) {
    const row = position * 2 * half;
    for (let i = 0; i < half; i++) {
      const angle = Math.fround(position * inverse[i]!);
      table[row + i] = Math.fround(Math.cos(angle)) * factor;
      table[row + half + i] = Math.fround(Math.sin(angle)) * factor;
    }
  }
  return table;
}
