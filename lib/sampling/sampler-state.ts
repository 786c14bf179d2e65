import { samplingCountOutput, samplingCountPrompt, SAMPLING_PARAMS_WIDTH, SamplingParam } from '../ops/sampling';
import type { Device } from '../tensor/device';
import { inScope, TemporaryScope } from '../tensor/scope';
import { Tensor } from '../tensor/tensor';
import { LOGITS_FEATURES } from './features';
import { idsTensor, type LogitsFeatureState } from './logits-feature';
import type { ResolvedSamplingParams } from './params';

/** What the sampler keeps of a request in the batch. */
export interface SamplerRow {
  readonly params: ResolvedSamplingParams;
  readonly hasPenalties: boolean;
  readonly features: readonly LogitsFeatureState[];
}

export function hasPenalties(params: ResolvedSamplingParams): boolean {
  return params.presencePenalty !== 0 || params.frequencyPenalty !== 0 || params.repetitionPenalty !== 1;
}

/**
 * Sampling parameters and token counts on the device, a stable row per request: a step uploads only what changed
 * (vllm model runner v2). Owns its tensors.
 */
export class SamplerState {
  readonly params: Tensor;
  readonly seeds: Tensor;
  private countsTensor: Tensor | null = null;
  private readonly rows = new Map<number, SamplerRow>();

  constructor(
    private readonly device: Device,
    private readonly maxNumSeqs: number,
    private readonly vocabSize: number,
  ) {
    this.params = device.empty([maxNumSeqs, SAMPLING_PARAMS_WIDTH], 'float32');
    this.seeds = device.empty([maxNumSeqs, 2], 'int32');
  }

  /** int32 [maxNumSeqs, vocabSize], or null while no request had penalties. */
  get counts(): Tensor | null {
    return this.countsTensor;
  }

  row(row: number): SamplerRow {
    return this.rows.get(row)!;
  }

  /** A request takes a row. `tokenIds` beyond the prompt are output of before a preemption. */
  add(row: number, params: ResolvedSamplingParams, tokenIds: readonly number[], numPromptTokens: number): void {
    this.remove(row);
    const values = new Float32Array(SAMPLING_PARAMS_WIDTH);
    values[SamplingParam.temperature] = params.temperature;
    values[SamplingParam.topP] = params.topP;
    values[SamplingParam.minP] = params.minP;
    values[SamplingParam.topK] = params.topK;
    values[SamplingParam.repetitionPenalty] = params.repetitionPenalty;
    values[SamplingParam.presencePenalty] = params.presencePenalty;
    values[SamplingParam.frequencyPenalty] = params.frequencyPenalty;
    writeRow(this.params, row, values);
    const seed = BigInt.asUintN(64, BigInt(params.seed));
    writeRow(this.seeds, row, Int32Array.of(Number(BigInt.asIntN(32, seed)), Number(BigInt.asIntN(32, seed >> 32n))));
    const penalties = hasPenalties(params);
    if (penalties) this.countTokens(row, tokenIds, numPromptTokens);
    const features = LOGITS_FEATURES.map((f) => f.create(params, this.device)).filter((s): s is LogitsFeatureState => s !== null);
    this.rows.set(row, { params, hasPenalties: penalties, features });
  }

  remove(row: number): void {
    for (const feature of this.rows.get(row)?.features ?? []) feature.dispose();
    this.rows.delete(row);
  }

  dispose(): void {
    for (const row of [...this.rows.keys()]) this.remove(row);
    this.params.disposeStorage();
    this.seeds.disposeStorage();
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

/** Writes one row of a table [rows, width]. */
function writeRow(table: Tensor, row: number, values: Float32Array | Int32Array): void {
  const view = Tensor.view(table.storage, table.dtype, row * values.byteLength, [values.length], [1]);
  try {
    view.write(values);
  } finally {
    view.dispose();
  }
}
