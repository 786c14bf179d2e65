import { LLM } from '../index';
import type { EngineArgs } from '../config/options';
import type { CliIo } from './io';
import { loadPlugins } from './plugins';
import { createProgress } from './progress';

/** Loads the plugins that the command line named, then the model, and shows how far that is. */
export async function openModel(args: EngineArgs, given: Readonly<Record<string, unknown>>, signal: AbortSignal, io: CliIo): Promise<LLM> {
  const workerImports = await loadPlugins(given);
  const progress = createProgress(io);
  try {
    return await LLM.create({ ...args, workerImports, signal, onProgress: ({ stage, loaded, total }) => progress.update(stage, loaded, total) });
  } finally {
    progress.stop();
  }
}
