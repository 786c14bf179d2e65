import { KvasirError } from '../utils/errors';

/**
 * That `name` is a full dotted name, as a checkpoint has it. An empty component means that a prefix was not passed on, or that a dot
 * was written after the empty prefix of the outermost module.
 * @param what what has the name, for the message
 * @throws KvasirError ERR_KVASIR_LAYER
 */
export function checkFullName(name: string, what: string): void {
  if (typeof name === 'string' && name.split('.').every((part) => part !== '')) return;
  throw new KvasirError(
    'ERR_KVASIR_LAYER',
    `${what}: expected a full name such as "model.layers.0.self_attn", received ${JSON.stringify(name)}: pass every module its prefix, joined by maybePrefix where it may be empty`,
  );
}
