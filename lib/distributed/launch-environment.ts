import { describeValue } from '../utils/describe-value';
import { KvasirError } from '../utils/errors';
import { isLoopback } from './host';

export type Environment = Readonly<Record<string, string | undefined>>;

/** Who started this process as one of several. */
export type Launcher = 'torchrun' | 'slurm' | 'open-mpi' | 'mpich' | 'leader-worker-set';

/** This process's place in a group, as a launcher told it. */
export interface LaunchedRank {
  readonly launcher: Launcher;
  /** 0..size - 1. */
  readonly rank: number;
  readonly size: number;
  /** Among the ranks of this host: which of its devices is this rank's. Null when the launcher does not say. */
  readonly localRank: number | null;
  readonly localSize: number | null;
  /** Where rank 0 listens; null when ranks are on several hosts (or that is unknown) and the launcher names no leader. */
  readonly host: string | null;
  readonly port: number;
}

const DEFAULT_PORT = 29500;
/** Ports derived from a job's id: below those that Linux gives to outgoing connections (32768 and up). */
const FIRST_JOB_PORT = 20000;
const NUM_JOB_PORTS = 9000;
const MAX_SIZE = 1 << 16;
const LOOPBACK = '127.0.0.1';

/**
 * The rank that a launcher gave this process through its environment; null for a process that was started alone. Whoever is asked
 * first and set both its rank and its size is believed:
 *
 * 1. torchrun and what imitates it: RANK, WORLD_SIZE (both, else they are taken for somebody else's), LOCAL_RANK, LOCAL_WORLD_SIZE.
 * 2. Open MPI: OMPI_COMM_WORLD_RANK, _SIZE, _LOCAL_RANK, _LOCAL_SIZE. Before Slurm, because mpirun inside a Slurm job inherits the
 *    variables of the job's own step.
 * 3. MPICH and Intel MPI: PMI_RANK, PMI_SIZE, MPI_LOCALRANKID, MPI_LOCALNRANKS. When srun set them itself, they agree with Slurm's,
 *    and Slurm is believed, since it knows the hosts.
 * 4. Slurm: SLURM_PROCID, SLURM_STEP_NUM_TASKS or SLURM_NTASKS, SLURM_LOCALID, SLURM_STEP_NODELIST. Only in a step (srun): the batch
 *    script of a job has a rank too, and it runs once.
 * 5. Kubernetes LeaderWorkerSet: LWS_WORKER_INDEX, LWS_GROUP_SIZE, LWS_LEADER_ADDRESS; one rank a pod.
 *
 * MASTER_ADDR and MASTER_PORT are believed under every launcher. Without them the host is 127.0.0.1 when all ranks are on one host,
 * else the launcher's leader; the port follows from the job's id, which is equal on all ranks and differs between jobs, else it is 29500.
 *
 * @throws KvasirError ERR_KVASIR_LAUNCH that names a variable whose value is malformed or missing
 */
export function rankFromEnvironment(env: Environment): LaunchedRank | null {
  for (const read of [torchrun, openMpi, mpich, slurm, leaderWorkerSet]) {
    const found = read(env);
    if (found !== null) return withAddress(env, found);
  }
  return null;
}

/** What a launcher knows; the rest follows for all of them alike. */
interface Found {
  readonly launcher: Launcher;
  readonly rank: number;
  readonly size: number;
  readonly localRank: number | null;
  readonly localSize: number | null;
  /** Of rank 0, where the launcher names it. */
  readonly leader: string | null;
  /** The same on all ranks of this job, another for other jobs. */
  readonly job: string | null;
}

function torchrun(env: Environment): Found | null {
  if (!isSet(env, 'RANK') || !isSet(env, 'WORLD_SIZE')) return null;
  return { launcher: 'torchrun', ...ranks(env, 'RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE'), leader: null, job: null };
}

function openMpi(env: Environment): Found | null {
  if (!isSet(env, 'OMPI_COMM_WORLD_RANK')) return null;
  const name = (what: string): string => `OMPI_COMM_WORLD_${what}`;
  const found = ranks(env, name('RANK'), name('SIZE'), name('LOCAL_RANK'), name('LOCAL_SIZE'));
  return { launcher: 'open-mpi', ...found, leader: null, job: env.PMIX_NAMESPACE ?? env.OMPI_MCA_ess_base_jobid ?? null };
}

function mpich(env: Environment): Found | null {
  if (!isSet(env, 'PMI_RANK')) return null;
  const found = ranks(env, 'PMI_RANK', 'PMI_SIZE', 'MPI_LOCALRANKID', 'MPI_LOCALNRANKS');
  const step = slurm(env);
  if (step !== null && step.rank === found.rank && step.size === found.size) return step;
  return { launcher: 'mpich', ...found, leader: null, job: null };
}

function slurm(env: Environment): Found | null {
  if (!isSet(env, 'SLURM_PROCID') || !isSet(env, 'SLURM_STEP_NODELIST')) return null;
  const size = isSet(env, 'SLURM_STEP_NUM_TASKS') ? 'SLURM_STEP_NUM_TASKS' : 'SLURM_NTASKS';
  const found = ranks(env, 'SLURM_PROCID', size, 'SLURM_LOCALID', null);
  const list = env.SLURM_STEP_NODELIST!;
  const leader = firstHost('SLURM_STEP_NODELIST', list);
  const job = isSet(env, 'SLURM_JOB_ID') ? `${env.SLURM_JOB_ID}.${env.SLURM_STEP_ID ?? ''}` : null;
  return { launcher: 'slurm', ...found, localSize: leader === list ? found.size : null, leader, job };
}

function leaderWorkerSet(env: Environment): Found | null {
  if (!isSet(env, 'LWS_WORKER_INDEX')) return null;
  const { rank, size } = ranks(env, 'LWS_WORKER_INDEX', 'LWS_GROUP_SIZE', null, null);
  return { launcher: 'leader-worker-set', rank, size, localRank: 0, localSize: 1, leader: env.LWS_LEADER_ADDRESS || null, job: null };
}

function withAddress(env: Environment, { leader, job, ...found }: Found): LaunchedRank {
  const oneHost = found.localSize === found.size || isLoopback(env.MASTER_ADDR ?? '');
  return {
    ...found,
    localRank: found.localRank ?? (oneHost ? found.rank : null),
    host: env.MASTER_ADDR || (oneHost ? LOOPBACK : leader),
    port: isSet(env, 'MASTER_PORT') ? integer(env, 'MASTER_PORT', 1, 65535) : jobPort(job),
  };
}

/** Reads a rank among a size, for the group and where the launcher says it for the host. */
function ranks(env: Environment, rankName: string, sizeName: string, localRankName: string | null, localSizeName: string | null) {
  const size = integer(env, sizeName, 1, MAX_SIZE);
  const rank = integer(env, rankName, 0, size - 1);
  const localSize = localSizeName !== null && isSet(env, localSizeName) ? integer(env, localSizeName, 1, size) : null;
  const localRank = localRankName !== null && isSet(env, localRankName) ? integer(env, localRankName, 0, (localSize ?? size) - 1) : null;
  return { rank, size, localRank, localSize };
}

function isSet(env: Environment, name: string): boolean {
  return env[name] !== undefined && env[name] !== '';
}

function integer(env: Environment, name: string, min: number, max: number): number {
  const text = env[name];
  const value = text !== undefined && /^\d{1,9}$/.test(text) ? Number(text) : NaN;
  if (!(value >= min && value <= max)) {
    throw new KvasirError('ERR_KVASIR_LAUNCH', `Environment variable ${name}: expected an integer in ${min}..${max}, received ${describeValue(text)}`);
  }
  return value;
}

/** node[03-07,9],x1 -> node03. A list that is one host comes back as it is. */
function firstHost(name: string, list: string): string {
  const entry = /^((?:[^,[\]]|\[[^[\]]*\])+)(?:,|$)/.exec(list)?.[1] ?? '';
  const host = entry.replace(/\[(\d+)[^[\]]*\]/g, '$1');
  if (!/^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$/.test(host)) {
    throw new KvasirError('ERR_KVASIR_LAUNCH', `Environment variable ${name}: expected a list of hosts such as node[01-04],gpu7, received ${describeValue(list)}`);
  }
  return host;
}

/** FNV-1a of the id: jobs that run at once on one host should not meet on one port. */
function jobPort(job: string | null): number {
  if (job === null) return DEFAULT_PORT;
  let hash = 0x811c9dc5;
  for (let i = 0; i < job.length; i++) hash = Math.imul(hash ^ job.charCodeAt(i), 0x01000193);
  return FIRST_JOB_PORT + ((hash >>> 0) % NUM_JOB_PORTS);
}
