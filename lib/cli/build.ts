import { spawn } from 'node:child_process';
import * as path from 'node:path';

/**
 * Runs the package's own build script, for installs whose npm did not run it (blocked install scripts, no compiler then).
 * @param cuda with the CUDA backend, which needs nvcc
 * @returns its exit code.
 */
export function buildAddon(cuda = false): Promise<number> {
  const script = path.join(__dirname, '..', '..', 'scripts', cuda ? 'build-cuda.js' : 'build-native.js');
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [script], { stdio: 'inherit' });
    child.on('error', reject);
    child.on('close', (code) => resolve(code ?? 1));
  });
}
