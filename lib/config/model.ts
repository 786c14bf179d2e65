import type { ComputeDType } from './vllm';

/** The raw config.json, after {@link parseHfConfig} has checked every size that Kvasir reads. */
export type HfConfig = Readonly<Record<string, unknown>> & {
  readonly architectures: readonly string[];
  readonly model_type?: string;
};

/** Plain data about the model; sizes are whole-model (not per rank). */
export interface ModelConfig {
  /** Directory that holds config.json, the safetensors and the tokenizer; or the path of a lone config.json (dummy weights). */
  readonly modelPath: string;
  /** Directory that holds tokenizer.json; the model's own unless the option `tokenizer` names another. */
  readonly tokenizerPath: string;
  readonly hfConfig: HfConfig;
  readonly architectures: readonly string[];
  readonly dtype: ComputeDType;
  readonly maxModelLen: number;
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly numHiddenLayers: number;
  readonly numAttentionHeads: number;
  readonly numKeyValueHeads: number;
  readonly headDim: number;
  /** Sliding window in tokens when every layer has it, else null (also null for interleaved models, see below). */
  readonly slidingWindow: number | null;
  /**
   * Window of the layers that slide when only some do (layer_types, Gemma 2), the largest if they differ; else null. It is kept out
   * of `slidingWindow` so that a full-attention layer never inherits it; the model passes each layer its own (layerWindows).
   */
  readonly interleavedSlidingWindow: number | null;
  readonly tieWordEmbeddings: boolean;
  /** Token ids that end a sequence (generation_config.json before config.json). */
  readonly eosTokenIds: readonly number[];
  /** Sampling defaults of generation_config.json: temperature, topP, topK, minP, repetitionPenalty, maxTokens where given. */
  readonly generationDefaults: Readonly<Record<string, number>>;
  /** Largest `logprobs` or `promptLogprobs` a request may ask for. */
  readonly maxLogprobs: number;
  /** Never capture device graphs. */
  readonly enforceEager: boolean;
}
