import { resolveParallel, type RankOfLauncher } from '../../lib/config/parallel';
import { validateEngineArgs } from '../../lib/config/validate-args';
import type { EngineArgs } from '../../lib/config/options';
import { expectCode } from '../fixtures/expect-error';
import { makeVllmConfig } from '../fixtures/vllm-config';

const model = { ...makeVllmConfig({}).model, numAttentionHeads: 12 };
const resolve = (args: Partial<EngineArgs>, launched: RankOfLauncher | null = null) => resolveParallel(validateEngineArgs({ model: 'm', ...args }), model, launched);
const RANK: RankOfLauncher = { launcher: 'open-mpi', rank: 3, size: 4, localRank: 1, localSize: 2, host: '127.0.0.1', port: 20123 };

describe('resolveParallel', () => {
  it('one rank has nothing to meet, whatever a launcher says', () => {
    expect(resolve({})).toEqual({ tensorParallelSize: 1, tpRank: 0 });
    expect(resolve({}, RANK)).toEqual({ tensorParallelSize: 1, tpRank: 0 });
  });

  it('without a launcher, rank 0 starts the others on this host', () => {
    expect(resolve({ tensorParallelSize: 4, tensorParallelTimeout: 7 })).toEqual({
      tensorParallelSize: 4,
      tpRank: 0,
      launch: { localRank: 0, localSize: 4, rendezvous: null, secretFile: null, startTimeoutMs: 7000, imports: [] },
    });
  });

  it("takes a launcher's rank and rank 0's address", () => {
    const { tpRank, launch } = resolve({ tensorParallelSize: 4, tensorParallelSecretFile: '/etc/secret' }, RANK);
    expect(tpRank).toBe(3);
    expect(launch).toMatchObject({ localRank: 1, localSize: 2, rendezvous: { host: '127.0.0.1', port: 20123 }, secretFile: '/etc/secret' });
    expect(resolve({ tensorParallelSize: 4 }, { ...RANK, localRank: null, localSize: null }).launch).toMatchObject({ localRank: 0, localSize: 1 });
  });

  it('refuses what does not fit', async () => {
    expect((await expectCode('ERR_KVASIR_CONFIG', () => resolve({ tensorParallelSize: 5 }))).message).toMatch(/divisor of the model's 12 attention heads, received 5/);
    expect((await expectCode('ERR_KVASIR_LAUNCH', () => resolve({ tensorParallelSize: 2 }, RANK))).message).toMatch(/tensorParallelSize, 2; open-mpi started 4/);
    expect((await expectCode('ERR_KVASIR_LAUNCH', () => resolve({ tensorParallelSize: 4 }, { ...RANK, host: null }))).message).toMatch(/MASTER_ADDR/);
  });
});
