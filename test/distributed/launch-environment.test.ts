import { rankFromEnvironment, type Environment, type LaunchedRank } from '../../lib/distributed/launch-environment';

const TORCHRUN = { RANK: '1', WORLD_SIZE: '4', LOCAL_RANK: '1', LOCAL_WORLD_SIZE: '2', MASTER_ADDR: 'head', MASTER_PORT: '1234' };
const OPEN_MPI = {
  ...{ OMPI_COMM_WORLD_RANK: '2', OMPI_COMM_WORLD_SIZE: '3', OMPI_COMM_WORLD_LOCAL_RANK: '2', OMPI_COMM_WORLD_LOCAL_SIZE: '3' },
  ...{ PMIX_NAMESPACE: '515244033', OMPI_MCA_ess_base_jobid: '515244033' },
};
const MPICH = { PMI_RANK: '0', PMI_SIZE: '2', MPI_LOCALRANKID: '0', MPI_LOCALNRANKS: '2' };
const SLURM = {
  ...{ SLURM_PROCID: '5', SLURM_NTASKS: '8', SLURM_STEP_NUM_TASKS: '6', SLURM_LOCALID: '1', SLURM_STEP_NODELIST: 'node[03-07,9],x1' },
  ...{ SLURM_JOB_ID: '77', SLURM_STEP_ID: '0' },
};
const LWS = { LWS_WORKER_INDEX: '1', LWS_GROUP_SIZE: '2', LWS_LEADER_ADDRESS: 'leader.default.svc' };

const CASES: readonly (readonly [string, Environment, LaunchedRank | null])[] = [
  ['nothing', {}, null],
  ['somebody else\'s RANK', { RANK: 'colonel' }, null],
  ['empty variables', { RANK: '', WORLD_SIZE: '', PMI_RANK: '' }, null],
  ['torchrun', TORCHRUN, { launcher: 'torchrun', rank: 1, size: 4, localRank: 1, localSize: 2, host: 'head', port: 1234 }],
  ['by hand, without an address', { RANK: '1', WORLD_SIZE: '2' }, { launcher: 'torchrun', rank: 1, size: 2, localRank: null, localSize: null, host: null, port: 29500 }],
  ['by hand, on this host', { RANK: '1', WORLD_SIZE: '2', MASTER_ADDR: 'localhost' }, { launcher: 'torchrun', rank: 1, size: 2, localRank: 1, localSize: null, host: 'localhost', port: 29500 }],
  ['torchrun on one host', { ...TORCHRUN, LOCAL_WORLD_SIZE: '4', MASTER_ADDR: undefined }, { launcher: 'torchrun', rank: 1, size: 4, localRank: 1, localSize: 4, host: '127.0.0.1', port: 1234 }],
  ['mpirun of Open MPI', OPEN_MPI, { launcher: 'open-mpi', rank: 2, size: 3, localRank: 2, localSize: 3, host: '127.0.0.1', port: 28542 }],
  ['mpirun on several hosts', { ...OPEN_MPI, OMPI_COMM_WORLD_LOCAL_SIZE: '1', OMPI_COMM_WORLD_LOCAL_RANK: '0' }, { launcher: 'open-mpi', rank: 2, size: 3, localRank: 0, localSize: 1, host: null, port: 28542 }],
  ['mpirun with an address', { ...OPEN_MPI, MASTER_ADDR: '10.0.0.1', MASTER_PORT: '4000' }, { launcher: 'open-mpi', rank: 2, size: 3, localRank: 2, localSize: 3, host: '10.0.0.1', port: 4000 }],
  ['mpirun inside a Slurm job', { ...OPEN_MPI, ...SLURM }, { launcher: 'open-mpi', rank: 2, size: 3, localRank: 2, localSize: 3, host: '127.0.0.1', port: 28542 }],
  ['mpiexec of MPICH', MPICH, { launcher: 'mpich', rank: 0, size: 2, localRank: 0, localSize: 2, host: '127.0.0.1', port: 29500 }],
  ['srun', SLURM, { launcher: 'slurm', rank: 5, size: 6, localRank: 1, localSize: null, host: 'node03', port: 20501 }],
  ['srun with PMI', { ...SLURM, PMI_RANK: '5', PMI_SIZE: '6' }, { launcher: 'slurm', rank: 5, size: 6, localRank: 1, localSize: null, host: 'node03', port: 20501 }],
  ['MPICH that srun started once a host', { ...SLURM, ...MPICH }, { launcher: 'mpich', rank: 0, size: 2, localRank: 0, localSize: 2, host: '127.0.0.1', port: 29500 }],
  ['srun on one host', { ...SLURM, SLURM_STEP_NODELIST: 'gpu-7', SLURM_STEP_NUM_TASKS: undefined }, { launcher: 'slurm', rank: 5, size: 8, localRank: 1, localSize: 8, host: '127.0.0.1', port: 20501 }],
  ['the batch script of a Slurm job', { ...SLURM, SLURM_STEP_NODELIST: undefined }, null],
  ['LeaderWorkerSet', LWS, { launcher: 'leader-worker-set', rank: 1, size: 2, localRank: 0, localSize: 1, host: 'leader.default.svc', port: 29500 }],
  ['torchrun in a pod of a LeaderWorkerSet', { ...LWS, ...TORCHRUN }, { launcher: 'torchrun', rank: 1, size: 4, localRank: 1, localSize: 2, host: 'head', port: 1234 }],
];

describe('rankFromEnvironment', () => {
  test.each(CASES)('%s', (_, env, expected) => {
    expect(rankFromEnvironment(env)).toEqual(expected);
  });

  test.each([
    ['a1', 'a1'],
    ['a[1-2]b[03-4,7],c', 'a1b03'],
    ['rack-1.node[12]', 'rack-1.node12'],
  ])('the first host of %s is %s', (list, host) => {
    expect(rankFromEnvironment({ ...SLURM, SLURM_STEP_NODELIST: `${list},z9` })?.host).toBe(host);
  });

  test('jobs have ports of their own, below those of outgoing connections', () => {
    const ports = Array.from({ length: 50 }, (_, i) => rankFromEnvironment({ ...OPEN_MPI, PMIX_NAMESPACE: `prterun-host-${i}@1` })!.port);
    expect(new Set(ports).size).toBeGreaterThan(45);
    expect(Math.min(...ports)).toBeGreaterThanOrEqual(20000);
    expect(Math.max(...ports)).toBeLessThan(29000);
  });

  test.each<[string, Environment]>([
    ['RANK', { ...TORCHRUN, RANK: '4' }],
    ['RANK', { ...TORCHRUN, RANK: '-1' }],
    ['WORLD_SIZE', { ...TORCHRUN, WORLD_SIZE: '0' }],
    ['WORLD_SIZE', { ...TORCHRUN, WORLD_SIZE: '2.5' }],
    ['LOCAL_RANK', { ...TORCHRUN, LOCAL_RANK: '2' }],
    ['LOCAL_WORLD_SIZE', { ...TORCHRUN, LOCAL_WORLD_SIZE: '5' }],
    ['MASTER_PORT', { ...TORCHRUN, MASTER_PORT: '65536' }],
    ['MASTER_PORT', { ...OPEN_MPI, MASTER_PORT: 'http' }],
    ['OMPI_COMM_WORLD_SIZE', { OMPI_COMM_WORLD_RANK: '0' }],
    ['PMI_SIZE', { PMI_RANK: '0', PMI_SIZE: '1e3' }],
    ['SLURM_NTASKS', { SLURM_PROCID: '0', SLURM_STEP_NODELIST: 'a' }],
    ['SLURM_STEP_NODELIST', { ...SLURM, SLURM_STEP_NODELIST: 'a[1-2' }],
    ['SLURM_STEP_NODELIST', { ...SLURM, SLURM_STEP_NODELIST: '[x]' }],
    ['SLURM_STEP_NODELIST', { ...SLURM, SLURM_STEP_NODELIST: 'a b' }],
    ['LWS_GROUP_SIZE', { ...LWS, LWS_GROUP_SIZE: 'two' }],
  ])('a bad %s is named', (name, env) => {
    expect(() => rankFromEnvironment(env)).toThrow(expect.objectContaining({ code: 'ERR_KVASIR_LAUNCH', message: expect.stringMatching(new RegExp(`^Environment variable ${name}: expected .+, received `)) }));
  });
});
