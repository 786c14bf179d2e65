import { LLM } from '../index';
import type { EngineArgs } from '../config/options';
import type { CliIo } from './io';
import { createProgress } from './progress';

/** Loads a model and shows how far that is. */
export async function openModel(args: EngineArgs, signal: AbortSignal, io: CliIo): Promise<LLM> {
  const progress = createProgress(io);
  try {
    return await LLM.create({ ...args, signal, onProgress: ({ stage, loaded, total }) => progress.update(stage, loaded, total) });
  } finally {
    progress.stop();
  }
}
