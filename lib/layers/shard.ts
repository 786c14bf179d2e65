import { KvasirError } from '../utils/errors';

/**
 * Shard math of the parallel layers, pure (vllm linear.py, vocab_parallel_embedding.py). A span is where a piece lies:
 * `start` and `size` in rows (or columns) of the whole or of this rank's part.
 */
export interface Span {
  readonly start: number;
  readonly size: number;
}

/** numerator / denominator, which must be exact. */
export function divide(numerator: number, denominator: number, what: string): number {
  if (denominator < 1 || numerator % denominator !== 0)
    throw new KvasirError('ERR_KVASIR_LAYER', `${what}: ${numerator} is not divisible by ${denominator}`);
  return numerator / denominator;
}

/** Rank's equal part of `total`. */
export function rankSpan(total: number, tpRank: number, tpSize: number, what: string): Span {
  const size = divide(total, tpSize, what);
  return { start: tpRank * size, size };
}

/**
 * A span in elements that stand for `unit` rows (or columns) each. It must begin with an element; the last element may be cut short.
 * @throws KvasirError ERR_KVASIR_QUANTIZATION
 */
export function inUnits({ start, size }: Span, unit: number, what: string): Span {
  if (start % unit !== 0) throw new KvasirError('ERR_KVASIR_QUANTIZATION', `${what}: ${start} is not a multiple of ${unit}, the rows or columns that share one element`);
  return { start: start / unit, size: Math.ceil(size / unit) };
}

/** The elements that stand for `unit` rows (or columns) each and have some of a span, which may begin and end inside of one. */
export function unitsOver({ start, size }: Span, unit: number): Span {
  const first = Math.floor(start / unit);
  return { start: first, size: Math.ceil((start + size) / unit) - first };
}

/** Part `shardId` of a merged column-parallel weight: where in the checkpoint tensor, and where in this rank's rows. */
export function mergedShard(parts: readonly number[], shardId: number, tpRank: number, tpSize: number, what: string): { source: Span; dest: Span } {
  const part = parts[shardId];
  if (!Number.isInteger(shardId) || part === undefined)
    throw new KvasirError('ERR_KVASIR_LAYER', `${what}: shard id ${shardId} is out of range, expected 0..${parts.length - 1}`);
  const source = rankSpan(part, tpRank, tpSize, `${what}, part ${shardId}`);
  const before = parts.slice(0, shardId).reduce((a, b) => a + b, 0);
  return { source, dest: { start: divide(before, tpSize, what), size: source.size } };
}

/** Heads of attention, of the whole model and on one rank. */
export interface HeadShard {
  readonly numHeads: number;
  readonly numKvHeads: number;
  /** Ranks that hold the same KV head (tpSize > total KV heads). */
  readonly kvReplicas: number;
}

/** Query heads are cut; KV heads are cut, or replicated when there are fewer than ranks. */
export function headShard(totalHeads: number, totalKvHeads: number, tpSize: number, what: string): HeadShard {
  const numHeads = divide(totalHeads, tpSize, `${what}, query heads`);
  if (tpSize >= totalKvHeads) return { numHeads, numKvHeads: 1, kvReplicas: divide(tpSize, totalKvHeads, `${what}, ranks per KV head`) };
  return { numHeads, numKvHeads: divide(totalKvHeads, tpSize, `${what}, KV heads`), kvReplicas: 1 };
}

export type QkvId = 'q' | 'k' | 'v';

/** Where q, k or v lies in its checkpoint tensor and in this rank's merged rows [q | k | v]. */
export function qkvShard(id: QkvId, heads: HeadShard, headDim: number, vHeadDim: number, tpRank: number): { source: Span; dest: Span } {
  const q = heads.numHeads * headDim;
  const k = heads.numKvHeads * headDim;
  const v = heads.numKvHeads * vHeadDim;
  const kvRank = Math.floor(tpRank / heads.kvReplicas);
  if (id === 'q') return { source: { start: tpRank * q, size: q }, dest: { start: 0, size: q } };
  if (id === 'k') return { source: { start: kvRank * k, size: k }, dest: { start: q, size: k } };
  return { source: { start: kvRank * v, size: v }, dest: { start: q + k, size: v } };
}

/** Rows of a vocabulary on one rank: base tokens, then added (LoRA) tokens, both padded. */
export interface VocabShard {
  /** Rows in memory on this rank. */
  readonly rows: number;
  /** Base token ids [start, start + size) of this rank that exist. */
  readonly base: Span;
  /** Rows reserved for base tokens, padding included. */
  readonly baseRows: number;
  /** Added token ids [start, start + size) of this rank that exist. */
  readonly added: Span;
}

const roundUp = (n: number, to: number): number => Math.ceil(n / to) * to;

/** Padding is to `padding` rows whatever the number of ranks. */
export function vocabShard(numEmbeddings: number, orgNumEmbeddings: number, padding: number, tpRank: number, tpSize: number): VocabShard {
  const numAdded = numEmbeddings - orgNumEmbeddings;
  const paddedOrg = roundUp(orgNumEmbeddings, padding);
  const paddedTotal = roundUp(paddedOrg + numAdded, padding);
  const baseRows = divide(paddedOrg, tpSize, 'padded vocabulary');
  const rows = divide(paddedTotal, tpSize, 'padded vocabulary');
  const addedRows = rows - baseRows;
  const clip = (start: number, size: number, end: number): Span => ({ start: Math.min(start, end), size: Math.max(0, Math.min(start + size, end) - start) });
  return {
    rows,
    baseRows,
    base: clip(tpRank * baseRows, baseRows, orgNumEmbeddings),
    added: clip(orgNumEmbeddings + tpRank * addedRows, addedRows, numEmbeddings),
  };
}
