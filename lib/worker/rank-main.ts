/** A rank that rank 0 started: waits for its configuration, serves, and ends. */
import { newStaticForwardContext } from '../config/resolve';
import { messageOf } from '../utils/errors';
import { importRegistrations } from '../utils/registrations';
import type { RankInit } from './rank-messages';
import { serveRank } from './rank-server';

function main(): void {
  // Ctrl-C and the end of a session reach every process of a group. Rank 0 answers them and then ends this one.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => undefined);
  process.once('disconnect', () => process.exit(1));
  process.once('message', (init: RankInit) => {
    run(init).then(
      () => process.exit(0),
      (error: unknown) => {
        process.stderr.write(`rank ${init.config.parallel.tpRank}: ${messageOf(error)}\n`);
        process.exit(1);
      },
    );
  });
}

async function run({ config, secret }: RankInit): Promise<void> {
  const { launch } = config.parallel;
  await importRegistrations(launch!.imports);
  await serveRank({ ...config, staticForwardContext: newStaticForwardContext() }, launch!, secret);
}

main();
