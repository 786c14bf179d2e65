import { samplingCountOutput, samplingCountPrompt, SAMPLING_PARAMS_WIDTH, SamplingParam } from '../ops/sampling';
import type { Device } from '../tensor/device';
import { inScope, TemporaryScope } from '../tensor/scope';
import type { Tensor } from '../tensor/tensor';
import { LOGITS_FEATURES } from './features';
import { idsTensor, type LogitsFeatureState } from './logits-feature';
import { GREEDY_TEMPERATURE, type ResolvedSamplingParams } from './params';

/** Where sampling parameters stand on the device, a stable row per request. */
export interface SamplerTables {
  /** float32 [maxNumSeqs, SAMPLING_PARAMS_WIDTH] */
  readonly params: Tensor;
  /** int32 [maxNumSeqs, 2]: low and high half */
  readonly seeds: Tensor;
  /** Notes a row, the bits of its params and then its seed; it is stored before the next step runs. */
  writeSampling(row: number, words: Int32Array): void;
}

/** What the sampler keeps of a request in the batch. */
export interface SamplerRow {
  readonly params: ResolvedSamplingParams;
  readonly hasPenalties: boolean;
  readonly features: readonly LogitsFeatureState[];
  /** Drawing is all that it ever needs: no logprobs, no penalties, no features. */
  readonly isPlain: boolean;
  /** How many of each rank's largest logits drawing needs; 0: all logits. */
  readonly numCandidates: number;
}

/** Why a few logits of each rank can be enough, and how many ranks exchange then. */
export const NUM_CANDIDATES = { greedy: 1, topK: 64 } as const;

function numCandidates({ temperature, topK }: ResolvedSamplingParams): number {
  if (temperature < GREEDY_TEMPERATURE) return NUM_CANDIDATES.greedy;
  return topK >= 1 && topK <= NUM_CANDIDATES.topK ? NUM_CANDIDATES.topK : 0;
}

export function hasPenalties(params: ResolvedSamplingParams): boolean {
  return params.presencePenalty !== 0 || params.frequencyPenalty !== 0 || params.repetitionPenalty !== 1;
}

/**
 * Sampling parameters and token counts on the device, a stable row per request: a step uploads only what changed
 * (vllm model runner v2). Owns what it allocates; the tables belong to who gave them.
 */
export class SamplerState {
  private countsTensor: Tensor | null = null;
  private readonly rows: (SamplerRow | null)[];
  private special = 0;

  constructor(
    private readonly device: Device,
    readonly tables: SamplerTables,
    private readonly maxNumSeqs: number,
    private readonly vocabSize: number,
  ) {
    this.rows = new Array<SamplerRow | null>(maxNumSeqs).fill(null);
  }

  /** int32 [maxNumSeqs, vocabSize], or null while no request had penalties. */
  get counts(): Tensor | null {
    return this.countsTensor;
  }

  /** Requests that are not plain. */
  get numSpecial(): number {
    return this.special;
  }

  row(row: number): SamplerRow {
    return this.rows[row]!;
  }

  /** A request takes a row. `tokenIds` beyond the prompt are output of before a preemption. */
  add(row: number, params: ResolvedSamplingParams, tokenIds: readonly number[], numPromptTokens: number): void {
    this.remove(row);
    this.tables.writeSampling(row, stateWords(params));
    const penalties = hasPenalties(params);
    if (penalties) this.countTokens(row, tokenIds, numPromptTokens);
    const features = LOGITS_FEATURES.map((f) => f.create(params, this.device)).filter((s): s is LogitsFeatureState => s !== null);
    const isPlain = !penalties && features.length === 0 && params.logprobs === null;
    if (!isPlain) this.special++;
    this.rows[row] = { params, hasPenalties: penalties, features, isPlain, numCandidates: numCandidates(params) };
  }

  remove(row: number): void {
    const state = this.rows[row];
    if (!state) return;
    for (const feature of state.features) feature.dispose();
    if (!state.isPlain) this.special--;
    this.rows[row] = null;
  }

  dispose(): void {
    for (let row = 0; row < this.rows.length; row++) this.remove(row);
    this.countsTensor?.disposeStorage();
    this.countsTensor = null;
  }

  private countTokens(row: number, tokenIds: readonly number[], numPromptTokens: number): void {
    const counts = (this.countsTensor ??= this.device.empty([this.maxNumSeqs, this.vocabSize], 'int32'));
    const scope = new TemporaryScope(this.device);
    const prompt = idsTensor(this.device, tokenIds.slice(0, numPromptTokens));
    const output = tokenIds.length > numPromptTokens ? idsTensor(this.device, tokenIds.slice(numPromptTokens)) : null;
    inScope(scope, () => {
      samplingCountPrompt(counts, row, prompt);
      if (output) samplingCountOutput(counts, row, output);
    });
    prompt.disposeStorage();
    output?.disposeStorage();
    scope.dispose();
  }
}

/** A row of params as its bits, then the seed, low half first. */
function stateWords(params: ResolvedSamplingParams): Int32Array {
  const words = new Int32Array(SAMPLING_PARAMS_WIDTH + 2);
  const values = new Float32Array(words.buffer);
  values[SamplingParam.temperature] = params.temperature;
  values[SamplingParam.topP] = params.topP;
  values[SamplingParam.minP] = params.minP;
  values[SamplingParam.topK] = params.topK;
  values[SamplingParam.repetitionPenalty] = params.repetitionPenalty;
  values[SamplingParam.presencePenalty] = params.presencePenalty;
  values[SamplingParam.frequencyPenalty] = params.frequencyPenalty;
  const seed = BigInt.asUintN(64, BigInt(params.seed));
  words[SAMPLING_PARAMS_WIDTH] = Number(BigInt.asIntN(32, seed));
  words[SAMPLING_PARAMS_WIDTH + 1] = Number(BigInt.asIntN(32, seed >> 32n));
  return words;
}
