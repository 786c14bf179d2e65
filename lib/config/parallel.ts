import * as path from 'node:path';
import { KvasirError } from '../utils/errors';
import type { ModelConfig } from './model';
import type { ValidatedEngineArgs } from './validate-args';
import type { ParallelConfig, RankLaunch } from './vllm';

/** What a launcher of ranks (mpirun, srun, torchrun, a LeaderWorkerSet) told this process. */
export interface RankOfLauncher {
  /** For messages. */
  readonly launcher: string;
  readonly rank: number;
  readonly size: number;
  /** Rank among the ranks of this host, and their number; null where the launcher does not say. */
  readonly localRank: number | null;
  readonly localSize: number | null;
  /** Where rank 0 listens; null where nobody said. */
  readonly host: string | null;
  readonly port: number;
}

/**
 * The rank of this process and how it meets the others. A launcher counts only when tensor parallelism is asked for: otherwise every
 * process that it starts is an engine of its own.
 * @throws KvasirError ERR_KVASIR_LAUNCH, ERR_KVASIR_CONFIG
 */
export function resolveParallel(options: ValidatedEngineArgs, model: ModelConfig, launched: RankOfLauncher | null): ParallelConfig {
  const { tensorParallelSize } = options;
  if (tensorParallelSize === 1) return { tensorParallelSize, tpRank: 0 };
  checkHeads(model, tensorParallelSize);
  if (launched !== null && launched.size !== tensorParallelSize) {
    throw new KvasirError('ERR_KVASIR_LAUNCH', `expected as many ranks as tensorParallelSize, ${tensorParallelSize}; ${launched.launcher} started ${launched.size}`);
  }
  return { tensorParallelSize, tpRank: launched?.rank ?? 0, launch: { ...placement(launched, tensorParallelSize), ...meeting(options) } };
}

/** Without a word of the launcher about hosts, a rank takes itself for the only one on its host. */
function placement(launched: RankOfLauncher | null, size: number): Pick<RankLaunch, 'localRank' | 'localSize' | 'rendezvous'> {
  if (launched === null) return { localRank: 0, localSize: size, rendezvous: null };
  const { launcher, localRank, localSize, host, port } = launched;
  if (host === null) throw new KvasirError('ERR_KVASIR_LAUNCH', `expected MASTER_ADDR, the host of rank 0: ${launcher} started ranks on several hosts and does not name it`);
  return { localRank: localRank ?? 0, localSize: localSize ?? 1, rendezvous: { host, port } };
}

function meeting({ tensorParallelSecretFile, tensorParallelTimeout }: ValidatedEngineArgs): Pick<RankLaunch, 'secretFile' | 'startTimeoutMs' | 'imports'> {
  const secretFile = tensorParallelSecretFile === null ? null : path.resolve(tensorParallelSecretFile);
  return { secretFile, startTimeoutMs: 1000 * tensorParallelTimeout, imports: [] };
}

/** As vllm ModelConfig.verify_with_parallel_config: heads are dealt out whole. */
function checkHeads({ numAttentionHeads }: ModelConfig, size: number): void {
  if (numAttentionHeads % size === 0) return;
  throw new KvasirError('ERR_KVASIR_CONFIG', `option 'tensorParallelSize': expected a divisor of the model's ${numAttentionHeads} attention heads, received ${size}`);
}
