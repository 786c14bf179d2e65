import * as path from 'node:path';
import type { EngineArgs } from '../config/options';
import { resolveVllmConfig } from '../config/resolve';
import type { VllmConfig } from '../config/vllm';
import { rankFromEnvironment } from '../distributed/launch-environment';
import { describeValue } from '../utils/describe-value';
import { KvasirError } from '../utils/errors';
import { detectedPlatform } from './default-executor';

/** Splits nothing off what is no object: the table of options then says what is wrong with it. */
export function checkOptions<T extends object>(options: T): T {
  if (typeof options !== 'object' || options === null) {
    throw new KvasirError('ERR_KVASIR_CONFIG', `expected an object of engine options, received ${describeValue(options)}`);
  }
  return options;
}

/** The options resolved: on this machine, and for the rank that a launcher gave this process. */
export async function configOf(args: EngineArgs, workerImports?: readonly string[]): Promise<VllmConfig> {
  const imports = checkImports(workerImports);
  const platform = args.device === 'cpu' ? undefined : detectedPlatform();
  const hasRanks = typeof args.tensorParallelSize === 'number' && args.tensorParallelSize > 1;
  const config = await resolveVllmConfig(args, platform, hasRanks ? rankFromEnvironment(process.env) : null);
  const { parallel } = config;
  return parallel.launch ? { ...config, parallel: { ...parallel, launch: { ...parallel.launch, imports } } } : config;
}

/** @throws KvasirError ERR_KVASIR_CONFIG */
export function checkImports(value: unknown): readonly string[] {
  if (value === undefined) return [];
  if (!Array.isArray(value) || value.some((file) => typeof file !== 'string' || !path.isAbsolute(file))) {
    throw new KvasirError('ERR_KVASIR_CONFIG', `option 'workerImports': expected an array of absolute module paths, received ${describeValue(value)}`);
  }
  return value as string[];
}
