import type { VllmConfig } from '../config/vllm';
import { Module } from '../nn/module';
import { Parameter } from '../nn/parameter';
import { addLayerNorm, addRmsNorm, layerNorm, rmsNorm } from '../ops/norm';
import type { Tensor } from '../tensor/tensor';

export interface RMSNormOptions {
  readonly hiddenSize: number;
  readonly eps: number;
  /** Multiply by (1 + weight), as Gemma does. */
  readonly gemma?: boolean;
}

/** Root-mean-square normalisation (Zhang and Sennrich, 2019; vllm RMSNorm). */
export class RMSNorm extends Module {
  readonly weight: Parameter;

  constructor(
    vllmConfig: VllmConfig,
    readonly options: RMSNormOptions,
    prefix: string,
  ) {
    super(prefix);
    this.weight = new Parameter(`${prefix}.weight`, [options.hiddenSize], vllmConfig.model.dtype);
  }

  /** x [numTokens, hiddenSize] -> the same shape. */
  forward(x: Tensor): Tensor {
    return rmsNorm(x, this.weight.tensor, this.options.eps, this.options.gemma);
  }

  /** Adds x to the residual stream (in place) and normalises the sum; without a residual, x begins the stream. */
  forwardResidual(x: Tensor, residual: Tensor | null): [normed: Tensor, residual: Tensor] {
    if (!residual) return [this.forward(x), x];
    return [addRmsNorm(x, residual, this.weight.tensor, this.options.eps, this.options.gemma), residual];
  }
}

export interface LayerNormOptions {
  readonly hiddenSize: number;
  readonly eps: number;
  /** Default true. */
  readonly bias?: boolean;
}

/** Layer normalisation (Ba et al., 2016; torch.nn.LayerNorm). */
export class LayerNorm extends Module {
  readonly weight: Parameter;
  readonly bias: Parameter | null;

  constructor(
    vllmConfig: VllmConfig,
    private readonly options: LayerNormOptions,
    prefix: string,
  ) {
    super(prefix);
    const { dtype } = vllmConfig.model;
    this.weight = new Parameter(`${prefix}.weight`, [options.hiddenSize], dtype);
    this.bias = (options.bias ?? true) ? new Parameter(`${prefix}.bias`, [options.hiddenSize], dtype) : null;
  }

  /** x [numTokens, hiddenSize] -> the same shape. */
  forward(x: Tensor): Tensor {
    return layerNorm(x, this.weight.tensor, this.bias?.tensor ?? null, this.options.eps);
  }

  /** Adds x to the residual stream (in place) and normalises the sum; without a residual, x begins the stream. */
  forwardResidual(x: Tensor, residual: Tensor | null): [normed: Tensor, residual: Tensor] {
    if (!residual) return [this.forward(x), x];
    return [addLayerNorm(x, residual, this.weight.tensor, this.bias?.tensor ?? null, this.options.eps), residual];
  }
}
