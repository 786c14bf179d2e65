import { KvasirError } from '../utils/errors';
import type { AttentionMetadata } from './metadata';

/** What layers look up by themselves during a forward pass (vllm.forward_context). */
export interface ForwardContext {
  readonly attention: AttentionMetadata;
}

let current: ForwardContext | null = null;

/** The context of the running forward pass. */
export function getForwardContext(): ForwardContext {
  if (!current) throw new KvasirError('ERR_KVASIR_PLAN', 'attention ran outside a forward pass: there is no forward context');
  return current;
}

/** Runs synchronous model code with a context. */
export function withForwardContext<T>(context: ForwardContext, fn: () => T): T {
  const outer = current;
  current = context;
  try {
    return fn();
  } finally {
    current = outer;
  }
}
