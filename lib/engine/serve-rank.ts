import type { EngineArgs } from '../config/options';
import type { VllmConfig } from '../config/vllm';
import { KvasirError } from '../utils/errors';
import { serveRankOf } from './default-executor';
import { checkOptions, configOf } from './engine-config';

/** Rank 0 answers them, and ends the group when its work is done or dropped. */
const SIGNALS = ['SIGINT', 'SIGTERM'] as const;

/**
 * For programs that are started as every rank of a group: serves the rank of this process, with the options that rank 0 gives to its
 * engine. Resolves when rank 0 closes that engine. Models of the program's own must be registered before.
 * Errors: those of LLM.create; ERR_KVASIR_LAUNCH also in a process that is rank 0 or has no rank.
 */
export async function serveRank(options: EngineArgs): Promise<void> {
  const config = await configOf(checkOptions(options));
  const { tpRank, tensorParallelSize } = config.parallel;
  if (tpRank === 0) throw new KvasirError('ERR_KVASIR_LAUNCH', `serveRank: expected a process with a rank of 1 to ${tensorParallelSize - 1}, received rank 0`);
  return serve(config);
}

/** Never returns: the program goes on in rank 0 only. Rejects with what made the rank fail. */
export async function serveAndExit(config: VllmConfig): Promise<never> {
  await serve(config);
  process.exit(0);
}

async function serve(config: VllmConfig): Promise<void> {
  const wait = (): void => undefined;
  for (const signal of SIGNALS) process.on(signal, wait);
  try {
    await serveRankOf(config);
  } finally {
    for (const signal of SIGNALS) process.off(signal, wait);
  }
}
