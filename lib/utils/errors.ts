/**
 * Every error a user can cause. `code` is stable; `status` is the HTTP status a server answers with; `summary` is what
 * docs/errors.md says of it (a test holds the docs to this table). The message of each thrown error says what was
 * expected and what was received.
 */
export const ERRORS = {
  ERR_KVASIR_NO_BINARY: { status: 500, summary: 'No native addon for this machine could be loaded.' },
  ERR_KVASIR_NATIVE: { status: 500, summary: 'The native addon raised an exception.' },
  ERR_KVASIR_TENSOR: { status: 500, summary: 'Shapes, dtypes or devices of tensors given to an op do not agree.' },
  ERR_KVASIR_DISPOSED: { status: 500, summary: 'A tensor or its memory was used after it was freed.' },
  ERR_KVASIR_DEVICE: { status: 500, summary: 'The CUDA device reported a fault; the engine cannot go on.' },
  ERR_KVASIR_OUT_OF_MEMORY: { status: 500, summary: 'The device has not enough memory for weights, activations or KV cache.' },
  ERR_KVASIR_CONFIG: { status: 400, summary: 'An engine option is unknown, of the wrong type or out of range.' },
  ERR_KVASIR_MODEL_NOT_FOUND: { status: 404, summary: 'The model directory or one of its files does not exist.' },
  ERR_KVASIR_MODEL_CONFIG: { status: 400, summary: "The model's config.json is not valid or its sizes make no sense." },
  ERR_KVASIR_UNSUPPORTED_MODEL: { status: 400, summary: "None of the model's architectures is registered." },
  ERR_KVASIR_UNSUPPORTED: { status: 400, summary: 'A feature that the model or request asks for is not implemented.' },
  ERR_KVASIR_CHECKPOINT: { status: 400, summary: 'A safetensors file or its index is damaged or unsafe.' },
  ERR_KVASIR_WEIGHTS: { status: 400, summary: 'Names or shapes of the checkpoint do not match those of the model.' },
  ERR_KVASIR_QUANTIZATION: { status: 400, summary: "The checkpoint's quantization_config is not valid, contradicts itself, or does not fit the model." },
  ERR_KVASIR_TOKENIZER: { status: 400, summary: 'The tokenizer is missing, damaged or of an unsupported kind.' },
  ERR_KVASIR_CHAT_TEMPLATE: { status: 400, summary: 'The chat template is missing, fails, or exceeds its limits.' },
  ERR_KVASIR_REGISTRY: { status: 400, summary: 'A model registration is not valid.' },
  ERR_KVASIR_LAYER: { status: 500, summary: 'A layer was built with sizes, options or a prefix that are not allowed.' },
  ERR_KVASIR_PLAN: { status: 500, summary: "A model's forward() ran other ops than those that were planned." },
  ERR_KVASIR_PARAMS: { status: 400, summary: 'A sampling parameter is unknown, of the wrong type or out of range.' },
  ERR_KVASIR_PROMPT: { status: 400, summary: 'A prompt is empty, of the wrong type, or holds token ids outside the vocabulary.' },
  ERR_KVASIR_PROMPT_TOO_LONG: { status: 400, summary: 'A prompt does not fit into maxModelLen or the KV cache.' },
  ERR_KVASIR_NAN_LOGITS: { status: 500, summary: 'The model produced NaN for a request.' },
  ERR_KVASIR_CLOSED: { status: 503, summary: 'The engine is closed.' },
  ERR_KVASIR_ENGINE_DEAD: { status: 500, summary: 'The engine failed and can serve no further requests.' },
  ERR_KVASIR_LAUNCH: { status: 500, summary: 'The ranks of a tensor-parallel group did not come together, or do not fit together (model, options, version).' },
  ERR_KVASIR_RANK: { status: 500, summary: 'Another rank of the tensor-parallel group failed, ended or does not answer.' },
  ERR_KVASIR_CLI: { status: 400, summary: 'Command line arguments or an input file are not valid.' },
} as const;

export type ErrorCode = keyof typeof ERRORS;

/** The one error class of Kvasir. `code` names the row of {@link ERRORS}. */
export class KvasirError extends Error {
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = 'KvasirError';
    this.code = code;
  }

  /** HTTP status a server answers with. */
  get status(): number {
    return ERRORS[this.code].status;
  }
}

/** The message of anything thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error || (typeof error === 'object' && error !== null && 'message' in error)
    ? String((error as { message: unknown }).message)
    : String(error);
}
