import { KvasirError } from '../utils/errors';
import type { ModelClass } from './interfaces';

/** Architecture names of config.json -> module and class; a module is loaded when a model asks for it. A model adds its line here. */
const MODELS: Readonly<Record<string, () => ModelClass>> = {
  LlamaForCausalLM: () => (require('./llama') as typeof import('./llama')).LlamaForCausalLM,
};

/** Architectures that can be loaded. */
export function supportedArchitectures(): string[] {
  return Object.keys(MODELS);
}

/**
 * The class for the first supported architecture of a model.
 * @throws KvasirError ERR_KVASIR_UNSUPPORTED_MODEL listing what is supported
 */
export function resolveModelClass(architectures: readonly string[]): ModelClass {
  for (const name of architectures) {
    const load = Object.hasOwn(MODELS, name) ? MODELS[name] : undefined;
    if (load) return load();
  }
  const supported = supportedArchitectures().join(', ');
  throw new KvasirError('ERR_KVASIR_UNSUPPORTED_MODEL', `architecture ${architectures.join(', ') || '(none)'} is not supported; supported: ${supported}`);
}
