/** Ranks with a GPU each, which talk by NCCL. */
import { describeGpus } from '../fixtures/gpu';
import { hasShared } from '../fixtures/shared';
import { faults, rankFault } from '../integration/rank-faults-suite';
import { rankGoldenTests } from '../integration/rank-goldens-suite';
import { hasMpirun, program, rankCommand, RankedProgram } from '../integration/ranks';
import { modelDir } from '../models/golden-suite';

const describeTwo = describeGpus(2);
/** Matrices of other widths are multiplied by other kernels, which add in another order. */
const ON_GPUS = { device: 'cuda', size: 2, available: true, tolerance: 1e-3 } as const;

describeTwo('two ranks that rank 0 started, CUDA graphs', () => rankGoldenTests({ ...ON_GPUS, launcher: 'kvasir' }));
describeTwo('two ranks that rank 0 started, eager', () => rankGoldenTests({ ...ON_GPUS, launcher: 'kvasir', enforceEager: true }));
(hasMpirun ? describeTwo : describe.skip)('two ranks under mpirun', () => rankGoldenTests({ ...ON_GPUS, launcher: 'mpirun' }));

(hasShared ? describeTwo : describe.skip)('a rank that ends, of two with a GPU each', () => {
  it.each(faults(['start', 'prefill', 'decode']))('rank $rank, at $phase: $how', (fault) => rankFault('kvasir', 'cuda', fault), 60_000);
});

describeTwo('two ranks, again and again', () => {
  it('200 runs by 20 engines end, and generate the same tokens', async () => {
    const options = { model: modelDir('kvasir-tales-5m'), device: 'cuda', tensorParallelSize: 2, numKvBlocks: 64 };
    const run = new RankedProgram(rankCommand('kvasir', 2, [program('rank-repeat.js'), JSON.stringify({ ...options, engines: 20, runs: 10 })]));
    const timer = setTimeout(() => run.cleanUp(), 380_000);
    const { code, stdout, stderr } = await run.ended;
    clearTimeout(timer);
    expect({ code, stderr, stdout }).toEqual({ code: 0, stderr: '', stdout: '{"runs":200,"different":0}\n' });
    expect(run.processes()).toEqual([]);
  }, 400_000);
});
