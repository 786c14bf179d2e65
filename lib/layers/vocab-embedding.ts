import type { VllmConfig } from '../config/vllm';
import { tensorParallelAllReduce } from '../distributed/communicator';
import { Module } from '../nn/module';
import { Parameter, type WeightLoader } from '../nn/parameter';
import { embedding } from '../ops/embedding';
import type { Tensor } from '../tensor/tensor';
import { KvasirError } from '../utils/errors';
import { LinearBase, ownSource } from './linear-base';
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

/** Loads this rank's rows of the checkpoint's vocabulary; the rest stays zero. */
function vocabLoader(shard: VocabShard, orgRows: number): WeightLoader {
  return (param, loaded) => {
    if (loaded.shape[0] !== orgRows)
      throw new KvasirError('ERR_KVASIR_WEIGHTS', `${loaded.name} has ${loaded.shape[0]} rows, expected the vocabulary size ${orgRows}`);
    param.copyShard(loaded.narrow(0, shard.base.start, shard.base.size), 0, 0, shard.base.size);
    param.finishLoading();
  };
}

/** Token embedding with the vocabulary cut over ranks (vllm VocabParallelEmbedding). */
export class VocabParallelEmbedding extends Module {
  readonly weight: Parameter;
  readonly shard: VocabShard;

  constructor(
    private readonly vllmConfig: VllmConfig,
    options: VocabOptions,
    prefix: string,
  ) {
    super(prefix);
    this.shard = shardOf(vllmConfig, options);
    this.weight = new Parameter(`${prefix}.weight`, [this.shard.rows, options.embeddingDim], vllmConfig.model.dtype, {
      weightLoader: vocabLoader(this.shard, options.orgNumEmbeddings ?? options.numEmbeddings),
      outputDim: 0,
    });
  }

  /** inputIds int32 [numTokens] -> [numTokens, embeddingDim]; ids of other ranks give zeros before the sum over ranks. */
  forward(inputIds: Tensor): Tensor {
    return tensorParallelAllReduce(this.vllmConfig.parallel, embedding(this.weight.tensor, inputIds, this.shard.base.start));
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
    const orgRows = options.orgNumEmbeddings ?? options.numEmbeddings;
    const load = vocabLoader(shard, orgRows);
    // One rank computes no padding; several gather equal shards and cut it afterwards.
    const rows = tensorParallelSize === 1 ? orgRows : shard.rows;
    const inputSize = options.embeddingDim;
    const partition = { inputSizePerPartition: inputSize, outputPartitionSizes: [rows], inputSize, outputSize: rows * tensorParallelSize };
    const linear = { inputSize, outputSize: partition.outputSize, bias: options.bias ?? false };
    const loaders = { weight: load, bias: load };
    super(vllmConfig, linear, partition, prefix, (t) => ownSource(prefix, t), loaders, 'lm_head', options.tiedTo?.weight ?? null);
  }

  forward(): never {
    throw new KvasirError('ERR_KVASIR_LAYER', `${this.prefix}: an LM head is not called; pass it to LogitsProcessor`);
  }

  /** hiddenStates [numRows, hiddenSize] -> float32 logits of this rank's rows of the vocabulary. */
  logits(hiddenStates: Tensor): Tensor {
    return this.apply(hiddenStates, this.bias, 'float32');
  }
}
