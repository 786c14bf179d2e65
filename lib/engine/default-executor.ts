import type { Platform } from '../config/resolve';
import type { ExecutorFactory } from './engine-core';

/** What this machine offers; loads the addon. */
export function detectedPlatform(): Platform {
  return (require('../worker/executor') as { detectPlatform: () => Platform }).detectPlatform();
}

/** The engine's own executor. Loaded at the call: importing the API of Kvasir does not load the addon. */
export const defaultExecutorFactory: ExecutorFactory = (config, hooks) => {
  const { createExecutor } = require('../worker/executor') as { createExecutor: ExecutorFactory };
  return createExecutor(config, hooks);
};
