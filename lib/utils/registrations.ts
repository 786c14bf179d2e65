import { pathToFileURL } from 'node:url';
import { KvasirError, messageOf } from './errors';

/**
 * Loads modules (absolute paths) in a thread or process of the engine. A module registers models when it is loaded, or in a function
 * `register` that it exports.
 * @throws KvasirError ERR_KVASIR_REGISTRY
 */
export async function importRegistrations(files: readonly string[]): Promise<void> {
  for (const file of files) await importOne(file);
}

async function importOne(file: string): Promise<void> {
  try {
    const module = (await import(pathToFileURL(file).href)) as { register?: unknown; default?: { register?: unknown } };
    const register = module.register ?? module.default?.register;
    if (typeof register === 'function') await (register as () => unknown)();
  } catch (error) {
    throw new KvasirError('ERR_KVASIR_REGISTRY', `workerImports: expected modules that can be loaded, ${file} cannot: ${messageOf(error)}`, { cause: error });
  }
}
