import { describeValue } from '../utils/describe-value';
import {
  HF_FIELDS, isPlainObject, modelConfigError, type RawConfig, readHfBoolean, readHfField, readHfString, requireHfField,
} from './hf-fields';
import { slidingWindows } from './layer-windows';
import type { HfConfig, ModelConfig } from './model';
import { checkRope, ropeParameters } from './rope';
import type { ComputeDType } from './vllm';

/** What config.json alone says of a model. */
export type HfModelFields = Pick<
  ModelConfig,
  | 'hfConfig' | 'architectures' | 'vocabSize' | 'hiddenSize' | 'numHiddenLayers' | 'numAttentionHeads' | 'numKeyValueHeads'
  | 'headDim' | 'slidingWindow' | 'interleavedSlidingWindow' | 'tieWordEmbeddings'
> & {
  /** torch_dtype (or dtype, transformers 5); null when it is absent or no compute type. */
  readonly torchDtype: ComputeDType | null;
  /** Longest sequence the positions allow, rope scaling included; null when config.json states none. */
  readonly maxPositions: number | null;
  /** quantization_config as it stands, or null. */
  readonly quantization: RawConfig | null;
};

/** Families whose transformers config ties the embeddings when config.json does not say. */
const TIED_BY_DEFAULT = new Set([
  'gpt2', 'gpt_bigcode', 'opt', 'bloom', 'gemma', 'gemma2', 'gemma3_text', 'falcon', 'mpt', 'starcoder2', 'cohere', 'cohere2',
]);

/** Rope types whose config.json states max_position_embeddings before scaling (vLLM, _get_and_verify_max_len). */
const LENGTHENING_ROPE_TYPES = new Set(['linear', 'dynamic', 'yarn']);

/**
 * Checks every size of a parsed config.json and maps it to Kvasir's names. `auto_map` (code shipped with a model) is
 * ignored: nothing of a model directory is ever executed.
 * @throws KvasirError ERR_KVASIR_MODEL_CONFIG
 */
export function parseHfConfig(config: RawConfig): HfModelFields {
  const architectures = readArchitectures(config);
  const modelType = readHfString(config, 'model_type');
  const dims = readDims(config);
  checkOptionalFields(config);
  checkRope(config);
  return {
    hfConfig: config as HfConfig,
    architectures,
    ...dims,
    ...slidingWindows(config, dims.numHiddenLayers),
    tieWordEmbeddings: readHfBoolean(config, 'tie_word_embeddings', modelType !== null && TIED_BY_DEFAULT.has(modelType)),
    torchDtype: readTorchDtype(config),
    maxPositions: readMaxPositions(config),
    quantization: readQuantization(config),
  };
}

function readArchitectures(config: RawConfig): readonly string[] {
  const value = config.architectures;
  const valid = Array.isArray(value) && value.length > 0 && value.every((name) => typeof name === 'string' && name.length > 0);
  if (valid) return value as string[];
  throw modelConfigError(`config.json: architectures: expected a non-empty array of names, received ${describeValue(value)}`);
}

function readDims(config: RawConfig) {
  const hiddenSize = requireHfField(config, 'hiddenSize');
  const numHiddenLayers = requireHfField(config, 'numHiddenLayers');
  const numAttentionHeads = requireHfField(config, 'numAttentionHeads');
  const numKeyValueHeads = readKeyValueHeads(config, numAttentionHeads);
  const vocabSize = requireHfField(config, 'vocabSize');
  if (numAttentionHeads % numKeyValueHeads !== 0) {
    throw modelConfigError(
      `config.json: expected num_attention_heads to be a multiple of num_key_value_heads, received ${numAttentionHeads} and ${numKeyValueHeads}`,
    );
  }
  const headDim = readHfField(config, 'headDim') ?? hiddenSize / numAttentionHeads;
  if (!Number.isInteger(headDim)) {
    throw modelConfigError(
      `config.json: without head_dim, hidden_size must be a multiple of num_attention_heads, received ${hiddenSize} and ${numAttentionHeads}`,
    );
  }
  return { hiddenSize, numHiddenLayers, numAttentionHeads, numKeyValueHeads, headDim, vocabSize };
}

/** Multi-query models of the Falcon and GPT-BigCode families say so with a flag, which counts more than a number there. */
function readKeyValueHeads(config: RawConfig, numAttentionHeads: number): number {
  const stated = readHfField(config, 'numKeyValueHeads');
  if (readHfBoolean(config, 'multi_query', false) && !readHfBoolean(config, 'new_decoder_architecture', false)) return 1;
  return stated ?? numAttentionHeads;
}

/** Fields that only some models read: checked here so that no model meets a wrong one. */
function checkOptionalFields(config: RawConfig): void {
  for (const field of [
    'intermediateSize', 'wordEmbedProjDim', 'moeIntermediateSize', 'sharedExpertIntermediateSize', 'decoderSparseStep', 'normEps',
    'ropeTheta', 'partialRotaryFactor', 'rotaryDim', 'attnLogitSoftcapping', 'finalLogitSoftcapping', 'queryPreAttnScalar',
  ] as const) {
    readHfField(config, field);
  }
  const experts = readHfField(config, 'numExperts') ?? 0;
  const perToken = readHfField(config, 'numExpertsPerToken') ?? 0;
  if (experts > 0 && perToken > experts) {
    throw modelConfigError(`config.json: num_experts_per_tok: expected at most the ${experts} experts, received ${perToken}`);
  }
}

function readTorchDtype(config: RawConfig): ComputeDType | null {
  const name = readHfString(config, 'torch_dtype') ?? readHfString(config, 'dtype');
  const bare = name?.replace(/^torch\./, '');
  return bare === 'float32' || bare === 'float16' || bare === 'bfloat16' ? bare : null;
}

function readMaxPositions(config: RawConfig): number | null {
  const stated = readHfField(config, 'maxPositionEmbeddings');
  if (stated === null) return null;
  const { ropeType, extra } = ropeParameters(config);
  const factor = extra.factor;
  if (!LENGTHENING_ROPE_TYPES.has(ropeType) || typeof factor !== 'number') return stated;
  const original = ropeType === 'yarn' ? extra.original_max_position_embeddings : undefined;
  const scaled = Math.floor((typeof original === 'number' ? original : stated) * factor);
  return Math.min(Math.max(scaled, 1), HF_FIELDS.maxPositionEmbeddings.max);
}

function readQuantization(config: RawConfig): RawConfig | null {
  const value = config.quantization_config ?? null;
  if (value === null || isPlainObject(value)) return value;
  throw modelConfigError(`config.json: quantization_config: expected an object, received ${describeValue(value)}`);
}
