import type { Platform } from '../config/resolve';
import type { VllmConfig } from '../config/vllm';
import type { ExecutorFactory } from './engine-core';

/** What this machine offers; loads the addon. */
export function detectedPlatform(): Platform {
  return (require('../worker/executor') as { detectPlatform: () => Platform }).detectPlatform();
}

/** Serves a rank other than 0; see worker/rank-server.ts. */
export function serveRankOf(config: VllmConfig): Promise<void> {
  return (require('../worker/executor') as { serveRank: (config: VllmConfig) => Promise<void> }).serveRank(config);
}

/** The engine's own executor. Loaded at the call: importing the API of Kvasir does not load the addon. */
export const defaultExecutorFactory: ExecutorFactory = (config, hooks) => {
  const { createExecutor } = require('../worker/executor') as { createExecutor: ExecutorFactory };
  return createExecutor(config, hooks);
};
