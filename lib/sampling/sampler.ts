import type { PositionLogprobs } from '../core/types';
import { cast, scatterElements } from '../ops/copy';
import { sample, sampleTop, samplingLogprobs, samplingPenalties, type SampledLogprobs } from '../ops/sampling';
import type { Device } from '../tensor/device';
import { inScope, TemporaryScope } from '../tensor/scope';
import { Tensor } from '../tensor/tensor';
import { narrow } from '../tensor/views';
import { SamplerState, type SamplerTables } from './sampler-state';

/** A row of logits to draw from. */
export interface SampleRequest {
  /** State row of the request. */
  readonly row: number;
  readonly numOutputTokens: number;
}

/** What rows of logits belong to, on the device. Noise depends on (seed, position) alone. */
export interface SampleRows {
  /** int32 [numRows]: state row of the request, -1 for padding. */
  readonly rows: Tensor;
  /** int32 [numRows]: position of the token that is drawn, the number of tokens before it. */
  readonly positions: Tensor;
}

export interface SampleResult {
  /** -1 where the logits hold NaN or no token is possible. */
  readonly tokenIds: ArrayLike<number>;
  /** null when no request of the step wants any. */
  readonly logprobs: readonly (PositionLogprobs | null)[] | null;
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
  /** The first of the ids: a captured step draws for padding too. */
  private readonly drawn: Tensor;
  /** Of drawing, which makes no tensors. */
  private readonly drawScope: TemporaryScope;

  constructor(
    private readonly device: Device,
    maxNumSeqs: number,
    vocabSize: number,
    tables: SamplerTables,
  ) {
    this.state = new SamplerState(device, tables, maxNumSeqs, vocabSize);
    this.lastTokens = device.empty([maxNumSeqs], 'int32');
    this.ids = device.empty([maxNumSeqs], 'int32');
    this.drawn = Tensor.view(this.ids.storage, 'int32', 0, [maxNumSeqs], [1]);
    this.drawScope = new TemporaryScope(device);
  }

  /** Whether any request of the batch may need more than {@link draw}. */
  get hasSpecial(): boolean {
    return this.state.numSpecial > 0;
  }

  /** Whether {@link draw} is all that these requests need in this step. */
  isPlain(requests: readonly SampleRequest[]): boolean {
    return requests.every(({ row, numOutputTokens }) => {
      const state = this.state.row(row);
      return state.isPlain || (state.params.logprobs === null && !state.hasPenalties && !state.features.some((f) => f.isActive(numOutputTokens)));
    });
  }

  /**
   * Queues drawing a token from each row of logits, for steps whose requests are plain. Two kernels on memory that is the same
   * in every step: they can be part of a CUDA graph.
   * @param logits float32 [numRows, vocabSize]
   */
  draw(logits: Tensor, { rows, positions }: SampleRows): void {
    bindCount(this.ids, logits.size(0));
    inScope(this.drawScope, () => this.queueDraw(logits, positions, rows, null));
  }

  /** How many of each rank's largest logits are enough to {@link drawTop} for these requests; 0: all logits. */
  numCandidates(requests: readonly { readonly row: number }[]): number {
    let most = 1;
    for (const { row } of requests) {
      const needed = this.state.row(row).numCandidates;
      if (needed === 0) return 0;
      most = Math.max(most, needed);
    }
    return most;
  }

  /**
   * As {@link draw}, the same tokens, from enough candidates of each row.
   * @param candidates int32 [numRows, 2 * n], see {@link sampleTop}
   */
  drawTop(candidates: Tensor, { rows, positions }: SampleRows): void {
    const { params, seeds } = this.state.tables;
    bindCount(this.ids, candidates.size(0));
    inScope(this.drawScope, () => {
      sampleTop(this.ids, candidates, params, seeds, positions, rows);
      scatterElements(this.lastTokens, rows, this.ids);
    });
  }

  /** The first `count` tokens of the last {@link draw} or {@link drawTop}. */
  async readDrawn(count: number): Promise<SampleResult> {
    bindCount(this.drawn, count);
    return { tokenIds: (await this.drawn.read()) as Int32Array, logprobs: null };
  }

  /**
   * Queues sampling and resolves with the results. Everything is queued before this returns its promise, so the memory of
   * `logits` may be reused by work queued afterwards.
   * @param logits float32 [at least requests.length, vocabSize]; changed in place
   * @param at of at least as many rows
   */
  sample(logits: Tensor, at: SampleRows, requests: readonly SampleRequest[]): Promise<SampleResult> {
    const scope = new TemporaryScope(this.device);
    try {
      return inScope(scope, () => this.queue(logits, at, requests));
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
    this.drawn.dispose();
    for (const tensor of [this.lastTokens, this.ids]) tensor.disposeStorage();
  }

  private queueDraw(logits: Tensor, positions: Tensor, rows: Tensor, counts: Tensor | null): void {
    const { params, seeds } = this.state.tables;
    sample(this.ids, logits, params, seeds, positions, rows, counts);
    scatterElements(this.lastTokens, rows, this.ids);
  }

  private async queue(batch: Tensor, at: SampleRows, requests: readonly SampleRequest[]): Promise<SampleResult> {
    const n = requests.length;
    // A captured step is padded.
    const [logits, rows, positions] = [batch, at.rows, at.positions].map((t) => (t.size(0) === n ? t : narrow(t, 0, 0, n))) as [Tensor, Tensor, Tensor];
    const states = requests.map((r) => this.state.row(r.row));
    bindCount(this.ids, n);
    const topK = states.reduce((most, s) => Math.max(most, s.params.logprobs ?? -1), -1);
    const penalties = states.some((s) => s.hasPenalties);
    const edits = penalties || states.some((s, i) => s.features.some((f) => f.isActive(requests[i]!.numOutputTokens)));
    const raw = topK >= 0 && edits ? cast(logits, 'float32') : logits;
    states.forEach((s, i) => s.features.forEach((f) => f.apply(logits, i, requests[i]!.numOutputTokens)));
    const counts = penalties ? this.state.counts : null;
    if (counts) samplingPenalties(logits, counts, this.state.tables.params, rows);
    this.queueDraw(logits, positions, rows, counts);
    const scores = topK >= 0 ? samplingLogprobs(raw, this.ids, topK) : null;
    const tokenIds = this.ids.read().then((ids) => Array.from(ids as Int32Array));
    if (!scores) return { tokenIds: await tokenIds, logprobs: null };
    const all = await readLogprobs(scores, tokenIds, topK);
    return { tokenIds: await tokenIds, logprobs: all.map((row, i) => trim(row, states[i]!.params.logprobs)) };
  }
}

/** Gives a tensor of one dimension another size, at the same place. */
function bindCount(tensor: Tensor, count: number): void {
  if (tensor.shape[0] !== count) tensor.rebind(tensor.storage, tensor.byteOffset, [count], [1]);
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
