import type { PositionLogprobs } from '../core/types';
import { cast, scatterElements } from '../ops/copy';
import { sample, samplingLogprobs, samplingPenalties, type SampledLogprobs } from '../ops/sampling';
import type { Device } from '../tensor/device';
import { inScope, TemporaryScope } from '../tensor/scope';
import { Tensor } from '../tensor/tensor';
import { narrow } from '../tensor/views';
import { SamplerState } from './sampler-state';

/** A row of logits to draw from. */
export interface SampleRequest {
  /** State row of the request. */
  readonly row: number;
  /** Position of the token that is drawn: the number of tokens before it. Noise depends on (seed, position) alone. */
  readonly position: number;
  readonly numOutputTokens: number;
}

export interface SampleResult {
  /** -1 where the logits hold NaN or no token is possible. */
  readonly tokenIds: readonly number[];
  readonly logprobs: readonly (PositionLogprobs | null)[];
}

/**
 * Draws the next token of every request of a step (vllm/v1/sample/sampler.py): logprobs of the raw logits, then allowed
 * tokens, minimum length, bias, penalties, temperature, min-p, top-k, top-p.
 */
export class Sampler {
  readonly state: SamplerState;
  /** int32 [maxNumSeqs]: the token last drawn for each state row; the next step may read it without its leaving the device. */
  readonly lastTokens: Tensor;
  private readonly ids: Tensor;
  /** Rows, then positions: one upload a step. */
  private readonly inputs: Tensor;
  private readonly rows: Tensor;
  private readonly positions: Tensor;

  constructor(
    private readonly device: Device,
    maxNumSeqs: number,
    vocabSize: number,
  ) {
    this.state = new SamplerState(device, maxNumSeqs, vocabSize);
    this.lastTokens = device.empty([maxNumSeqs], 'int32');
    this.ids = device.empty([maxNumSeqs], 'int32');
    this.inputs = device.empty([2 * maxNumSeqs], 'int32');
    this.rows = Tensor.view(this.inputs.storage, 'int32', 0, [maxNumSeqs], [1]);
    this.positions = Tensor.view(this.inputs.storage, 'int32', 4 * maxNumSeqs, [maxNumSeqs], [1]);
  }

  /**
   * Queues sampling and resolves with the results. Everything is queued before this returns its promise, so the memory of
   * `logits` may be reused by work queued afterwards.
   * @param logits float32 [at least requests.length, vocabSize]; changed in place
   */
  sample(logits: Tensor, requests: readonly SampleRequest[]): Promise<SampleResult> {
    const scope = new TemporaryScope(this.device);
    try {
      return inScope(scope, () => this.queue(logits, requests));
    } finally {
      scope.dispose(); // frees in stream order, after what was queued
    }
  }

  /** Log probabilities of given tokens at rows of logits, with the topK best. */
  logprobsOf(logits: Tensor, targets: readonly number[], topK: number): Promise<PositionLogprobs[]> {
    const scope = new TemporaryScope(this.device);
    try {
      return inScope(scope, () => {
        const targetIds = scope.allocate([targets.length], 'int32');
        targetIds.write(Int32Array.from(targets));
        return readLogprobs(samplingLogprobs(logits, targetIds, topK), Promise.resolve(targets), topK);
      });
    } finally {
      scope.dispose();
    }
  }

  dispose(): void {
    this.state.dispose();
    for (const tensor of [this.rows, this.positions]) tensor.dispose();
    for (const tensor of [this.lastTokens, this.ids, this.inputs]) tensor.disposeStorage();
  }

  private writeInputs(requests: readonly SampleRequest[]): void {
    const n = requests.length;
    const values = new Int32Array(2 * n);
    requests.forEach((r, i) => {
      values[i] = r.row;
      values[n + i] = r.position;
    });
    this.inputs.write(values);
    this.rows.rebind(this.inputs.storage, 0, [n], [1]);
    this.positions.rebind(this.inputs.storage, 4 * n, [n], [1]);
  }

  private async queue(batch: Tensor, requests: readonly SampleRequest[]): Promise<SampleResult> {
    const n = requests.length;
    const logits = batch.size(0) === n ? batch : narrow(batch, 0, 0, n); // a captured step is padded
    const states = requests.map((r) => this.state.row(r.row));
    this.ids.rebind(this.ids.storage, 0, [n], [1]);
    this.writeInputs(requests);
    const topK = states.reduce((most, s) => Math.max(most, s.params.logprobs ?? -1), -1);
    const penalties = states.some((s) => s.hasPenalties);
    const edits = penalties || states.some((s, i) => s.features.some((f) => f.isActive(requests[i]!.numOutputTokens)));
    const raw = topK >= 0 && edits ? cast(logits, 'float32') : logits;
    states.forEach((s, i) => s.features.forEach((f) => f.apply(logits, i, requests[i]!.numOutputTokens)));
    const counts = this.state.counts;
    if (penalties && counts) samplingPenalties(logits, counts, this.state.params, this.rows);
    sample(this.ids, logits, this.state.params, this.state.seeds, this.positions, this.rows, penalties ? counts : null);
    const scores = topK >= 0 ? samplingLogprobs(raw, this.ids, topK) : null;
    scatterElements(this.lastTokens, this.rows, this.ids);
    const tokenIds = this.ids.read().then((ids) => Array.from(ids as Int32Array));
    if (!scores) return { tokenIds: await tokenIds, logprobs: new Array<null>(n).fill(null) };
    const all = await readLogprobs(scores, tokenIds, topK);
    return { tokenIds: await tokenIds, logprobs: all.map((row, i) => trim(row, states[i]!.params.logprobs)) };
  }
}

/** The batch computes the largest k that any request wants; each gets its own. */
function trim(row: PositionLogprobs, k: number | null): PositionLogprobs | null {
  if (k === null) return null;
  return { ...row, tokenIds: row.tokenIds.slice(0, 1 + k), logprobs: row.logprobs.slice(0, 1 + k) };
}

/** Queues reading now. */
function readLogprobs(result: SampledLogprobs, targets: Promise<readonly number[]>, topK: number): Promise<PositionLogprobs[]> {
  const { logprob, rank, topIds, topLogprobs } = result;
  const reads = [targets, logprob.read(), rank.read(), topIds?.read(), topLogprobs?.read()] as const;
  return Promise.all(reads).then(([targets, logprob, rank, topIds, topLogprobs]) => {
    const top = <T>(values: unknown, i: number): T[] => (values ? Array.from((values as { subarray(a: number, b: number): Iterable<T> }).subarray(i * topK, (i + 1) * topK)) : []);
    return targets.map((target, i) => ({
      tokenIds: [target, ...top<number>(topIds, i)],
      logprobs: [(logprob as Float32Array)[i]!, ...top<number>(topLogprobs, i)],
      sampledRank: (rank as Int32Array)[i]!,
    }));
  });
}
