import * as fs from 'node:fs';
import * as path from 'node:path';
import { pathToFileURL } from 'node:url';
import type { Command } from 'commander';
import { KvasirError, messageOf } from '../utils/errors';

/** Adds --plugin, which may be given several times. */
export function addPluginOption(command: Command): Command {
  const collect = (value: string, before: readonly string[] = []): string[] => [...before, value];
  return command.option('--plugin <module>', 'Load a module first that registers models of its own (a path, or a package); may be given several times.', collect);
}

/**
 * Loads the modules that --plugin named: a path (relative to the working directory) or a package found from there. A module registers
 * its models when it is loaded, or in a function `register` that it exports (vllm.general_plugins).
 * @returns their files, for processes that have to load them too
 * @throws KvasirError ERR_KVASIR_REGISTRY
 */
export async function loadPlugins(given: Readonly<Record<string, unknown>>): Promise<string[]> {
  const files: string[] = [];
  for (const name of (given.plugin ?? []) as readonly string[]) files.push(await loadPlugin(name));
  return files;
}

async function loadPlugin(name: string): Promise<string> {
  try {
    const file = fs.existsSync(name) ? path.resolve(name) : require.resolve(name, { paths: [process.cwd()] });
    const module = (await importModule(file)) as { register?: unknown; default?: { register?: unknown } };
    const register = module.register ?? module.default?.register;
    if (typeof register === 'function') await (register as () => unknown)();
    return require.resolve(file);
  } catch (error) {
    throw new KvasirError('ERR_KVASIR_REGISTRY', `--plugin ${name}: expected a module that can be loaded: ${messageOf(error)}`, { cause: error });
  }
}

/** What require() says of ES modules: of all of them in older versions of Node, else of those that await at their top level. */
const ES_MODULE = new Set(['ERR_REQUIRE_ESM', 'ERR_REQUIRE_ASYNC_MODULE']);

/** CommonJS and ES modules alike; a folder is loaded as require() does. */
async function importModule(file: string): Promise<unknown> {
  const resolved = require.resolve(file);
  try {
    return require(resolved) as unknown;
  } catch (error) {
    if (!ES_MODULE.has((error as NodeJS.ErrnoException | null)?.code ?? '')) throw error;
    return import(pathToFileURL(resolved).href);
  }
}
