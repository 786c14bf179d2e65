import { KvasirError, messageOf } from '../utils/errors';
import type { ModelClass } from './interfaces';

/** Architecture names of config.json -> module and class; a module is loaded when a model asks for it. A model adds its line here. */
const MODELS: Readonly<Record<string, () => ModelClass>> = {
  LlamaForCausalLM: () => (require('./llama') as typeof import('./llama')).LlamaForCausalLM,
};

const registered = new Map<string, () => ModelClass>();

function registryError(message: string, cause?: unknown): KvasirError {
  return new KvasirError('ERR_KVASIR_REGISTRY', message, { cause });
}

function requireModule(architecture: string, file: string): Record<string, unknown> {
  try {
    return require(file) as Record<string, unknown>;
  } catch (error) {
    throw registryError(`model ${architecture}: could not load ${file}: ${messageOf(error)}`, error);
  }
}

/** A class of an own module, loaded on first use: `./my-model.js:MyForCausalLM` (an absolute path or a package name). */
function lazyClass(architecture: string, reference: string): () => ModelClass {
  const at = reference.lastIndexOf(':');
  const [file, name] = [reference.slice(0, at), reference.slice(at + 1)];
  if (at <= 0 || name === '') throw registryError(`model ${architecture}: expected "module:Class", received "${reference}"`);
  return () => {
    const exported = requireModule(architecture, file)[name];
    if (typeof exported !== 'function') throw registryError(`model ${architecture}: module ${file} has no class ${name}`);
    return exported as ModelClass;
  };
}

/** Models from outside the tree (vllm ModelRegistry). Registrations belong to the thread; AsyncLLM takes `workerImports`. */
export const ModelRegistry = {
  /**
   * Makes an architecture of config.json known, or replaces it.
   * @param model the class, or "module:Class" (absolute path or package), loaded when first used
   * @throws KvasirError ERR_KVASIR_REGISTRY when either argument is not of that form
   */
  registerModel(architecture: string, model: ModelClass | string): void {
    if (typeof architecture !== 'string' || architecture === '') throw registryError(`an architecture must be a name, received ${String(architecture)}`);
    if (typeof model === 'string') registered.set(architecture, lazyClass(architecture, model));
    else if (typeof model === 'function') registered.set(architecture, () => model);
    else throw registryError(`model ${architecture}: expected a class or "module:Class", received ${String(model)}`);
  },

  /** Architectures that can be loaded. */
  getSupportedArchs(): string[] {
    return [...new Set([...Object.keys(MODELS), ...registered.keys()])];
  },
};

/**
 * The class for the first supported architecture of a model.
 * @throws KvasirError ERR_KVASIR_UNSUPPORTED_MODEL listing what is supported
 */
export function resolveModelClass(architectures: readonly string[]): ModelClass {
  for (const name of architectures) {
    const load = registered.get(name) ?? (Object.hasOwn(MODELS, name) ? MODELS[name] : undefined);
    if (load) return load();
  }
  const supported = ModelRegistry.getSupportedArchs().join(', ');
  throw new KvasirError('ERR_KVASIR_UNSUPPORTED_MODEL', `architecture ${architectures.join(', ') || '(none)'} is not supported; supported: ${supported}`);
}
