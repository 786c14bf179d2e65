import type { VllmConfig } from '../config/vllm';
import { Module } from '../nn/module';
import { Parameter } from '../nn/parameter';
import { embedding } from '../ops/embedding';
import type { Tensor } from '../tensor/tensor';
import { narrow } from '../tensor/views';

export interface PositionEmbeddingOptions {
  readonly numPositions: number;
  readonly embeddingDim: number;
  /** Rows of the table before that of position 0 (OPT has 2). Default 0. */
  readonly offset?: number;
}

/** A learned vector for each position, the whole table on every rank. */
export class PositionEmbedding extends Module {
  readonly weight: Parameter;

  constructor(
    vllmConfig: VllmConfig,
    private readonly options: PositionEmbeddingOptions,
    prefix: string,
  ) {
    super(prefix);
    const { numPositions, embeddingDim, offset = 0 } = options;
    this.weight = new Parameter(`${prefix}.weight`, [offset + numPositions, embeddingDim], vllmConfig.model.dtype);
  }

  /** positions int32 [numTokens] -> [numTokens, embeddingDim] */
  forward(positions: Tensor): Tensor {
    const { numPositions, offset = 0 } = this.options;
    return embedding(narrow(this.weight.tensor, 0, offset, numPositions), positions);
  }
}
