import * as path from 'node:path';
import type { VllmConfig } from '../config/vllm';
import { describeValue } from '../utils/describe-value';
import { KvasirError, messageOf } from '../utils/errors';
import { checkModelMembers, type ModelClass, type TextGenerationModel } from './interfaces';

/** Architecture names of config.json -> module and class; a module is loaded when a model asks for it. A model adds its line here. */
const MODELS: Readonly<Record<string, () => ModelClass>> = {
  BloomForCausalLM: () => (require('./bloom') as typeof import('./bloom')).BloomForCausalLM,
  Gemma2ForCausalLM: () => (require('./gemma2') as typeof import('./gemma2')).Gemma2ForCausalLM,
  GPT2LMHeadModel: () => (require('./gpt2') as typeof import('./gpt2')).GPT2LMHeadModel,
  GPTNeoXForCausalLM: () => (require('./gpt-neox') as typeof import('./gpt-neox')).GPTNeoXForCausalLM,
  LlamaForCausalLM: () => (require('./llama') as typeof import('./llama')).LlamaForCausalLM,
  MistralForCausalLM: () => (require('./mistral') as typeof import('./mistral')).MistralForCausalLM,
  MixtralForCausalLM: () => (require('./mixtral') as typeof import('./mixtral')).MixtralForCausalLM,
  OPTForCausalLM: () => (require('./opt') as typeof import('./opt')).OPTForCausalLM,
  Phi3ForCausalLM: () => (require('./phi3') as typeof import('./phi3')).Phi3ForCausalLM,
  Qwen2ForCausalLM: () => (require('./qwen2') as typeof import('./qwen2')).Qwen2ForCausalLM,
  Qwen3ForCausalLM: () => (require('./qwen3') as typeof import('./qwen3')).Qwen3ForCausalLM,
  Qwen3MoeForCausalLM: () => (require('./qwen3-moe') as typeof import('./qwen3-moe')).Qwen3MoeForCausalLM,
};

const registered = new Map<string, () => ModelClass>();

function registryError(message: string, cause?: unknown): KvasirError {
  return new KvasirError('ERR_KVASIR_REGISTRY', message, { cause });
}

/** Arrow functions and methods cannot be called with `new`: they have no prototype. */
function isClass(value: unknown): value is ModelClass {
  return typeof value === 'function' && typeof value.prototype === 'object';
}

function requireModule(architecture: string, file: string): Record<string, unknown> {
  try {
    return require(file) as Record<string, unknown>;
  } catch (error) {
    throw registryError(`model ${architecture}: could not load ${file}: ${messageOf(error)}`, error);
  }
}

/** A class of an own module, loaded on first use: `./my-model.js:MyForCausalLM` (a path or a package name, exactly one colon). */
function lazyClass(architecture: string, reference: string): () => ModelClass {
  const drive = /^[A-Za-z]:[\\/]/.exec(reference)?.[0] ?? '';
  const parts = reference.slice(drive.length).split(':');
  const [file, name] = [drive + parts[0], parts[1]];
  if (parts.length !== 2 || !file || !name) throw registryError(`model ${architecture}: expected "module:Class", received "${reference}"`);
  const resolved = /^\.{1,2}[\\/]/.test(file) ? path.resolve(file) : file;
  return () => {
    const exported = requireModule(architecture, resolved)[name];
    if (!isClass(exported)) throw registryError(`model ${architecture}: module ${file} has no class ${name}`);
    return exported;
  };
}

/** Models from outside the tree (vllm ModelRegistry). Registrations belong to the thread; AsyncLLM takes `workerImports`. */
export const ModelRegistry = {
  /**
   * Makes an architecture of config.json known, or replaces it (with a process warning).
   * @param model the class, or "module:Class" (a path, relative to the working directory, or a package), loaded when first used
   * @throws KvasirError ERR_KVASIR_REGISTRY when either argument is not of that form
   */
  registerModel(architecture: string, model: ModelClass | string): void {
    if (typeof architecture !== 'string' || architecture === '') throw registryError(`an architecture must be a name, received ${describeValue(architecture)}`);
    if (typeof model !== 'string' && !isClass(model))
      throw registryError(`model ${architecture}: expected a class or "module:Class", received ${describeValue(model)}`);
    const load = typeof model === 'string' ? lazyClass(architecture, model) : () => model;
    if (registered.has(architecture) || Object.hasOwn(MODELS, architecture))
      process.emitWarning(`the model ${architecture} was registered before and is replaced`, { code: 'KVASIR_MODEL_REPLACED' });
    registered.set(architecture, load);
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

/**
 * Builds the model of the first supported architecture; composite models build the one inside them so (vllm init_vllm_registered_model).
 * @param prefix its full name, below which its weights are found, e.g. "language_model"; "" for the outermost
 * @throws KvasirError ERR_KVASIR_UNSUPPORTED_MODEL, ERR_KVASIR_REGISTRY for a class without the members of a model
 */
export function initRegisteredModel(vllmConfig: VllmConfig, prefix: string, architectures: readonly string[]): TextGenerationModel {
  const model = new (resolveModelClass(architectures))(vllmConfig, prefix);
  checkModelMembers(model);
  return model;
}
