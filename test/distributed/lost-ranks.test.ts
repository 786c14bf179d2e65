import type { Leader } from '../../lib/distributed/control-plane';
import { bindLeader } from '../../lib/distributed/leader';
import { failureOf, options, RankProcess, timed } from './fixtures/ranks';

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
/** What other ranks must know of a rank that is gone or stopped. */
const DETECTED_WITHIN_MS = 5000;

/** Rank 0 here, the others each in a process that behaves in its own way. */
async function group(...behaviours: readonly string[]): Promise<{ leader: Leader; ranks: RankProcess[] }> {
  const size = behaviours.length + 1;
  const server = await bindLeader(options(0, size, 0));
  const ranks = behaviours.map((behaviour, i) => new RankProcess(behaviour, options(i + 1, size, server.port, { killAfterMs: 2000 })));
  const leader = await server.accept();
  await Promise.all(ranks.map((rank) => rank.event('started')));
  return { leader, ranks };
}

afterEach(() => RankProcess.killAll());

describe('ranks in processes of their own', () => {
  test('end by themselves when rank 0 closes the group', async () => {
    const { leader, ranks } = await group('serve', 'serve');
    leader.sendStep({ newRequests: [], scheduled: [], totalNumScheduledTokens: 0, removedRequestIds: [] });
    await leader.close();
    expect(await Promise.all(ranks.map((rank) => rank.exited))).toEqual([0, 0]);
    expect(ranks.map((rank) => rank.names)).toEqual(Array.from({ length: 2 }, () => ['started', 'step', 'close']));
  });

  test('SIGKILL of one is known to the others at once', async () => {
    const { leader, ranks } = await group('serve', 'serve');
    const failure = failureOf(leader);
    ranks[0]!.signal('SIGKILL');
    const { value, ms } = await timed(failure);
    expect(value).toMatchObject({ code: 'ERR_KVASIR_RANK', message: expect.stringMatching(/^rank 1: is gone \(/) });
    expect(ms).toBeLessThan(1000);
    expect(await ranks[1]!.event('failure')).toMatchObject({ code: 'ERR_KVASIR_RANK', message: value.message });
    expect(await ranks[1]!.exited).toBe(3);
    await leader.close();
  });

  test.each([
    ['throw', /^rank 1: is gone \(/],
    ['fail', /^rank 1: no memory left$/],
  ])('a rank that ends by itself (%s) is known to the others at once', async (behaviour, message) => {
    const { leader, ranks } = await group(behaviour, 'serve');
    const { value, ms } = await timed(failureOf(leader));
    expect(value).toMatchObject({ code: 'ERR_KVASIR_RANK', message: expect.stringMatching(message) });
    expect(ms).toBeLessThan(2000);
    expect(await ranks[1]!.event('failure')).toMatchObject({ message: value.message });
    await leader.close();
  });

  test('SIGSTOP of one is known to the others within 5 s; when it goes on, it learns why', async () => {
    const { leader, ranks } = await group('serve', 'serve');
    const failure = failureOf(leader);
    ranks[0]!.signal('SIGSTOP');
    const { value, ms } = await timed(failure);
    expect(value).toMatchObject({ code: 'ERR_KVASIR_RANK', message: expect.stringMatching(/^rank 1: it does not answer: no heartbeat for 4\.\d s$/) });
    expect(ms).toBeLessThan(DETECTED_WITHIN_MS);
    expect(ms).toBeGreaterThan(3000);
    expect(await ranks[1]!.event('failure')).toMatchObject({ message: value.message });
    ranks[0]!.signal('SIGCONT');
    expect(await ranks[0]!.event('failure')).toMatchObject({ code: 'ERR_KVASIR_RANK', message: expect.stringMatching(/^rank 1: it does not answer|^rank 0: is gone/) });
    await leader.close();
  });

  test('a rank that was stopped for a while accuses nobody', async () => {
    const { leader, ranks } = await group('serve');
    let failed = false;
    leader.onFailure(() => (failed = true));
    for (let round = 0; round < 2; round++) {
      ranks[0]!.signal('SIGSTOP');
      await sleep(2800);
      ranks[0]!.signal('SIGCONT');
      await sleep(1500);
    }
    expect(failed).toBe(false);
    expect(ranks[0]!.names).toEqual(['started']);
    await leader.close();
    expect(await ranks[0]!.exited).toBe(0);
  });

  test('a group of which all ranks were stopped goes on', async () => {
    const leader = new RankProcess('lead', options(0, 2, 0));
    const { port } = await leader.event('listening');
    const follower = new RankProcess('serve', options(1, 2, port!));
    await Promise.all([leader.event('started'), follower.event('started')]);
    for (const rank of [leader, follower]) rank.signal('SIGSTOP');
    await sleep(6000);
    for (const rank of [leader, follower]) rank.signal('SIGCONT');
    await sleep(1500);
    expect([leader.names, follower.names]).toEqual([['listening', 'started'], ['started']]);
  });

  test('a busy main thread is not taken for a dead rank', async () => {
    const { leader, ranks } = await group('busy');
    let failed = false;
    leader.onFailure(() => (failed = true));
    await ranks[0]!.event('idle');
    expect(failed).toBe(false);
    await leader.close();
    expect(await ranks[0]!.exited).toBe(0);
  });
});

describe('without rank 0', () => {
  async function lead(behaviour: string, follower: string): Promise<{ leader: RankProcess; follower: RankProcess }> {
    const leader = new RankProcess(behaviour, options(0, 2, 0));
    const { port } = await leader.event('listening');
    const other = new RankProcess(follower, options(1, 2, port!, { killAfterMs: 2000, endWithinMs: 2000 }));
    await Promise.all([leader.event('started'), other.event('started')]);
    return { leader, follower: other };
  }

  test('a rank ends at once when it is killed', async () => {
    const { leader, follower } = await lead('lead', 'serve');
    leader.signal('SIGKILL');
    const { value, ms } = await timed(follower.exited);
    expect(value).toBe(3);
    expect(ms).toBeLessThan(1500);
    expect(await follower.event('failure')).toMatchObject({ code: 'ERR_KVASIR_RANK', message: expect.stringMatching(/^rank 0: is gone/) });
  });

  test('a rank knows within 5 s when it is stopped', async () => {
    const { leader, follower } = await lead('lead', 'serve');
    leader.signal('SIGSTOP');
    const { value, ms } = await timed(follower.event('failure'));
    expect(value).toMatchObject({ message: expect.stringMatching(/^rank 0: it does not answer/) });
    expect(ms).toBeLessThan(DETECTED_WITHIN_MS);
  });

  test.each(['lead', 'leadAndClose'])('a rank whose main thread hangs does not outlive it (%s)', async (behaviour) => {
    const { leader, follower } = await lead(behaviour, 'hang');
    if (behaviour === 'lead') {
      await sleep(300); // it hangs by now
      leader.signal('SIGKILL');
    }
    const { value, ms } = await timed(follower.exited);
    expect(value).toBe('SIGKILL');
    expect(ms).toBeLessThan(DETECTED_WITHIN_MS);
  });

  test.each([
    ['hangs', 'hangAtEnd', 'SIGKILL'],
    ['takes its time, and closes the group,', 'lingerAndClose', 3],
  ])('a rank whose main thread %s after the failure ends in time', async (_, behaviour, exit) => {
    const { leader, follower } = await lead('lead', behaviour);
    leader.signal('SIGKILL');
    await follower.event('failure');
    const { value, ms } = await timed(follower.exited);
    expect(value).toBe(exit);
    expect(ms).toBeGreaterThan(1500);
    expect(ms).toBeLessThan(DETECTED_WITHIN_MS);
  });

  test('a program that forgets to close the group ends all the same, and the ranks with it', async () => {
    const { leader, follower } = await lead('leadAndForget', 'serve');
    expect(await leader.exited).toBe(0);
    expect(await follower.exited).toBe(3);
  });
});
