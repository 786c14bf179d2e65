import { loadBinding } from '../binding/load';
import type { Platform } from '../config/resolve';

/** What the addon finds on this machine besides the CPU. Loads the addon. */
export function detectPlatform(): Platform {
  const { deviceCount, problem } = loadBinding().cudaInfo();
  return { cudaDevices: deviceCount, cudaProblem: problem };
}
