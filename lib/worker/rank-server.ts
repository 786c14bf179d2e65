import type { RankLaunch, VllmConfig } from '../config/vllm';
import type { Follower } from '../distributed/control-plane';
import { joinAsFollower } from '../distributed/follower';
import { KvasirError } from '../utils/errors';
import { fingerprintOf, groupOf } from './rank-identity';
import { RankWorker } from './rank-worker';

/**
 * A launcher waits for every rank, so that none may stay: not one whose main thread hangs when rank 0 is gone, and not one that cannot
 * free what it has after a failure, because its device does not answer any more. They are killed after this.
 */
const LIMITS = { killAfterMs: 2000, endWithinMs: 5000 };

/**
 * Serves a rank other than 0: joins the group, loads its part of the model and runs the steps that rank 0 sends. Resolves when rank 0
 * ends the group; everything is freed then.
 * @throws KvasirError ERR_KVASIR_LAUNCH (the ranks did not come together), ERR_KVASIR_RANK (another rank failed), and what loading and
 * running a model throw
 */
export async function serveRank(vllmConfig: VllmConfig, launch: RankLaunch, secret: string, signal?: AbortSignal): Promise<void> {
  const { tensorParallelSize: size, tpRank: rank } = vllmConfig.parallel;
  const { rendezvous, startTimeoutMs: timeoutMs } = launch;
  if (rendezvous === null) throw new KvasirError('ERR_KVASIR_LAUNCH', `rank ${rank}: expected to be told where rank 0 is`);
  const plane = await joinAsFollower({ rank, size, ...rendezvous, secret, fingerprint: fingerprintOf(vllmConfig), timeoutMs, signal, ...LIMITS });
  const worker = RankWorker.create(vllmConfig, groupOf(vllmConfig, plane, timeoutMs));
  try {
    await serve(plane, worker);
  } catch (error) {
    plane.fail(error);
    throw error;
  } finally {
    worker.abort();
    await worker.dispose().finally(() => plane.close());
  }
}

/** Settles with the group: at its orderly end, or with the first error of this rank or of another. */
function serve(plane: Follower, worker: RankWorker): Promise<void> {
  return new Promise((resolve, reject) => {
    plane.onFailure((error) => {
      worker.abort(); // a step that waits for the rank that failed would wait for ever
      reject(error);
    });
    plane.onClose(resolve);
    const ready = worker.initialize(() => undefined);
    ready.then(() => plane.onStep((step) => void worker.execute(step).catch(reject)), reject);
  });
}
