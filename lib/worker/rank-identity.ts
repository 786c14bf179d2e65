import { createHash } from 'node:crypto';
import * as fs from 'node:fs/promises';
import * as path from 'node:path';
import type { RankLaunch, VllmConfig } from '../config/vllm';
import { Communicator } from '../distributed/communicator';
import type { ControlPlane, Fingerprint } from '../distributed/control-plane';
import { KvasirError, messageOf } from '../utils/errors';
import { packageVersion } from '../utils/version';
import type { RankGroup } from './rank-worker';

/**
 * What ranks compare when they meet: the version, the model and every option that decides what is computed. Where a rank runs, how many
 * threads it has and where its files lie may differ.
 */
export function fingerprintOf({ model, cache, scheduler, device, load, quantization, seed, parallel }: VllmConfig): Fingerprint {
  const { modelPath, tokenizerPath: _tokenizerPath, hfConfig, ...fields } = model;
  const { device: type, batchInvariant } = device;
  const digest = createHash('sha256').update(JSON.stringify(hfConfig)).digest('hex').slice(0, 16);
  const compared = {
    ...{ version: packageVersion(), model: path.basename(modelPath), 'config.json (digest)': digest, quantization, seed },
    ...{ tensorParallelSize: parallel.tensorParallelSize, device: type, batchInvariant },
    ...fields,
    ...cache,
    ...scheduler,
    ...load,
  };
  return Object.fromEntries(Object.entries(compared).map(([name, value]) => [name, typeof value === 'string' ? value : JSON.stringify(value)]));
}

/**
 * The secret of the ranks; empty where none is configured.
 * @throws KvasirError ERR_KVASIR_LAUNCH
 */
export async function readSecret({ secretFile }: RankLaunch): Promise<string> {
  if (secretFile === null) return '';
  try {
    const secret = (await fs.readFile(secretFile, 'utf8')).trim();
    if (secret.length >= 16) return secret;
  } catch (error) {
    throw new KvasirError('ERR_KVASIR_LAUNCH', `option 'tensorParallelSecretFile': expected a file that can be read: ${messageOf(error)}`, { cause: error });
  }
  throw new KvasirError('ERR_KVASIR_LAUNCH', `option 'tensorParallelSecretFile': expected a secret of at least 16 characters in ${secretFile}, received fewer`);
}

/** The group of a rank in a process of its own: NCCL among GPUs, Gloo among CPUs. */
export function groupOf({ device }: VllmConfig, plane: ControlPlane, timeoutMs: number): RankGroup {
  const { rank, size, address: host } = plane;
  const kind = device.device === 'cuda' ? 'nccl' : 'gloo';
  return {
    rank,
    size,
    createCommunicator: (on) => Communicator.create(on, { kind, rank, size, host, timeoutMs }),
    exchange: (bytes) => plane.exchange(bytes),
    agreeOnBlocks: (fitting) => Math.min(...fitting),
  };
}
