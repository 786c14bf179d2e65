/** Bounds on what a chat template may cost. A template is part of a model somebody else made, its input comes from users. */
export interface ChatTemplateLimits {
  /** Milliseconds one rendering may take, once its thread runs. */
  readonly timeoutMs: number;
  /** MiB of heap for the rendering thread. */
  readonly maxHeapMb: number;
  /** UTF-16 code units of the rendered text. */
  readonly maxOutputLength: number;
  /** Code units of a template. */
  readonly maxTemplateLength: number;
  /** Numbers a range() may hold. */
  readonly maxRange: number;
}

export const DEFAULT_LIMITS: ChatTemplateLimits = {
  timeoutMs: 1000,
  maxHeapMb: 256,
  maxOutputLength: 16 * 1024 * 1024,
  maxTemplateLength: 1024 * 1024,
  maxRange: 100_000,
};

/** Bounds on messages, tools and template arguments. */
export const INPUT_LIMITS = { depth: 64, values: 1_000_000 };
