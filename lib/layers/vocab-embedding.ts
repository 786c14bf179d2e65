import type { VllmConfig } from '../config/vllm';
import { tensorParallelAllReduce } from '../distributed/communicator';
import { Module } from '../nn/module';
import { Parameter } from '../nn/parameter';
import { scale } from '../ops/activation';
import { embedding } from '../ops/embedding';
import type { Tensor } from '../tensor/tensor';
import { KvasirError } from '../utils/errors';
import { LinearBase } from './linear-base';
import { shardLoader, uncut, type LinearShards } from './linear-loader';
import { vocabShard, type VocabShard } from './shard';

/** Vocabulary rows are padded to a multiple of this (vllm DEFAULT_VOCAB_PADDING_SIZE). */
export const VOCAB_PADDING = 64;

export interface VocabOptions {
  readonly numEmbeddings: number;
  readonly embeddingDim: number;
  /** Rows of the checkpoint, when tokens were added to them. Default: numEmbeddings. */
  readonly orgNumEmbeddings?: number;
  readonly paddingSize?: number;
}

function shardOf(vllmConfig: VllmConfig, options: VocabOptions): VocabShard {
  const { tensorParallelSize, tpRank } = vllmConfig.parallel;
  return vocabShard(options.numEmbeddings, options.orgNumEmbeddings ?? options.numEmbeddings, options.paddingSize ?? VOCAB_PADDING, tpRank, tensorParallelSize);
}

/** This rank's rows of the checkpoint's vocabulary, then padding up to `rows`. */
function vocabShards(shard: VocabShard, options: VocabOptions, rows: number): LinearShards {
  const whole = options.orgNumEmbeddings ?? options.numEmbeddings;
  return { parts: [{ id: null, whole, source: shard.base, dest: { start: 0, size: rows } }], input: uncut(options.embeddingDim) };
}

export interface EmbeddingOptions extends VocabOptions {
  /** Factor of the embeddings, rounded to the compute type before (Gemma: sqrt(hiddenSize)). */
  readonly scale?: number;
}

/** Token embedding with the vocabulary cut over ranks (vllm VocabParallelEmbedding). */
export class VocabParallelEmbedding extends Module {
  readonly weight: Parameter;
  readonly shard: VocabShard;

  constructor(
    private readonly vllmConfig: VllmConfig,
    private readonly options: EmbeddingOptions,
    prefix: string,
  ) {
    super(prefix);
    this.shard = shardOf(vllmConfig, options);
    this.weight = new Parameter(`${prefix}.weight`, [this.shard.rows, options.embeddingDim], vllmConfig.model.dtype, {
      weightLoader: shardLoader(prefix, vocabShards(this.shard, options, this.shard.rows), { outputDim: 0, inputDim: 1 }),
      outputDim: 0,
    });
  }

  /** inputIds int32 [numTokens] -> [numTokens, embeddingDim]; ids of other ranks give zeros before the sum over ranks. */
  forward(inputIds: Tensor): Tensor {
    const embeddings = tensorParallelAllReduce(this.vllmConfig.parallel, embedding(this.weight.tensor, inputIds, this.shard.base.start));
    return this.options.scale === undefined ? embeddings : scale(embeddings, this.options.scale, embeddings);
  }
}

export interface LMHeadOptions extends VocabOptions {
  readonly bias?: boolean;
  /** Shares the embedding's weight (tie_word_embeddings). */
  readonly tiedTo?: VocabParallelEmbedding;
}

/** Output projection onto the vocabulary (vllm ParallelLMHead). Used through LogitsProcessor. */
export class ParallelLMHead extends LinearBase {
  constructor(vllmConfig: VllmConfig, options: LMHeadOptions, prefix: string) {
    const { tensorParallelSize } = vllmConfig.parallel;
    const shard = shardOf(vllmConfig, options);
    // One rank computes no padding; several gather equal shards and cut it afterwards.
    const rows = tensorParallelSize === 1 ? (options.orgNumEmbeddings ?? options.numEmbeddings) : shard.rows;
    const linear = { inputSize: options.embeddingDim, outputSize: rows * tensorParallelSize, bias: options.bias ?? false };
    super(vllmConfig, linear, { shards: vocabShards(shard, options, rows), kind: 'lm_head', tiedWeight: options.tiedTo?.weight }, prefix);
  }

  forward(): never {
    throw new KvasirError('ERR_KVASIR_LAYER', `${this.prefix}: an LM head is not called; pass it to LogitsProcessor`);
  }

  /** hiddenStates [numRows, hiddenSize] -> float32 logits of this rank's rows of the vocabulary. */
  logits(hiddenStates: Tensor): Tensor {
    return this.apply(hiddenStates, this.bias, 'float32');
  }
}
