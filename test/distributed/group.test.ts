import type { SchedulerOutput } from '../../lib/core/types';
import type { Follower } from '../../lib/distributed/control-plane';
import { joinAsFollower } from '../../lib/distributed/follower';
import { bindLeader } from '../../lib/distributed/leader';
import { KvasirError } from '../../lib/utils/errors';
import { failureOf, localGroup, options } from './fixtures/ranks';

const EMPTY: SchedulerOutput = { newRequests: [], scheduled: [], totalNumScheduledTokens: 0, removedRequestIds: [] };
const bytesOf = (text: string): Uint8Array => Buffer.from(text);
const textsOf = (all: readonly Uint8Array[]): string[] => all.map((bytes) => Buffer.from(bytes).toString());
const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
const removing = (id: string): SchedulerOutput => ({ ...EMPTY, removedRequestIds: [id] });

function stepWith(id: string, numTokens: number): SchedulerOutput {
  const tokenIds = Array.from({ length: numTokens }, (_, i) => i);
  const samplingParams = {
    ...{ n: 1, presencePenalty: 0, frequencyPenalty: 0, repetitionPenalty: 1, temperature: 0, topP: 1, topK: 0, minP: 0, seed: -5 },
    ...{ stop: ['\u2028'], stopTokenIds: [], eosTokenIds: [2], maxTokens: 16, minTokens: 0, logprobs: null, promptLogprobs: null, detokenize: true },
    ...{ skipSpecialTokens: true, spacesBetweenSpecialTokens: true, includeStopStrInOutput: false, outputKind: 'final' as const, logitBias: null, allowedTokenIds: null },
  };
  const newBlockIds = Array.from({ length: Math.ceil(numTokens / 16) }, (_, i) => i);
  return {
    newRequests: [{ requestId: id, tokenIds, numPromptTokens: numTokens, samplingParams }],
    scheduled: [{ requestId: id, numComputedTokens: 0, numScheduledTokens: numTokens, newBlockIds }],
    totalNumScheduledTokens: numTokens,
    removedRequestIds: [],
  };
}

function steps(follower: Follower, count: number): Promise<SchedulerOutput[]> {
  const received: SchedulerOutput[] = [];
  return new Promise((resolve) =>
    follower.onStep((step) => {
      if (received.push(step) === count) resolve(received);
    }),
  );
}

describe('a group', () => {
  test('exchanges bytes: by rank, several at once, in the order of the calls', async () => {
    const { leader, followers, close } = await localGroup(3);
    const ranks = [leader, ...followers];
    const first = ranks.map((rank) => rank.exchange(bytesOf(`a${rank.rank}`)));
    const second = ranks.map((rank) => rank.exchange(bytesOf(rank.rank === 1 ? '' : `b${rank.rank}`)));
    for (const all of await Promise.all(first)) expect(textsOf(all)).toEqual(['a0', 'a1', 'a2']);
    for (const all of await Promise.all(second)) expect(textsOf(all)).toEqual(['b0', '', 'b2']);
    const large = ranks.map((rank) => rank.exchange(new Uint8Array(1 << 20).fill(rank.rank)));
    for (const all of await Promise.all(large)) expect(all.map((bytes) => [bytes.length, bytes[0], bytes.at(-1)])).toEqual([0, 1, 2].map((rank) => [1 << 20, rank, rank]));
    for (const rank of ranks) await expect(rank.exchange(new Uint8Array((1 << 20) + 1))).rejects.toMatchObject({ code: 'ERR_KVASIR_LAUNCH' });
    await close();
  });

  test('gives every rank every step in order, large and small, also those that came before there was a listener', async () => {
    const { leader, followers, close } = await localGroup(3);
    // 4 MB at once: more than the system takes, so that the encoder must not write over what is still to be sent.
    const sent = Array.from({ length: 60 }, (_, i) => (i % 3 === 2 ? removing(`r${i - 1}`) : stepWith(`r${i}`, i % 3 === 0 ? 20000 : 7)));
    for (const step of sent) leader.sendStep(step);
    await sleep(50);
    for (const received of await Promise.all(followers.map((follower) => steps(follower, sent.length)))) expect(received).toEqual(sent);
    await close();
  });

  test('ends in order when rank 0 closes it', async () => {
    const { leader, followers } = await localGroup(3);
    const failures: unknown[] = [];
    for (const rank of [leader, ...followers]) rank.onFailure((error) => failures.push(error));
    const waiting = expect(followers[0]!.exchange(bytesOf('x'))).rejects.toMatchObject({ code: 'ERR_KVASIR_CLOSED' });
    const closes = followers.map((follower) => new Promise<void>((resolve) => follower.onClose(resolve)));
    leader.sendStep(EMPTY);
    const last = steps(followers[1]!, 1);
    await leader.close();
    await Promise.all(closes);
    await waiting;
    expect(await last).toEqual([EMPTY]);
    let again = 0;
    followers[0]!.onClose(() => again++);
    expect(again).toBe(1);
    await Promise.all([leader.close(), ...followers.map((follower) => follower.close())]);
    await expect(leader.exchange(bytesOf('x'))).rejects.toMatchObject({ code: 'ERR_KVASIR_CLOSED' });
    leader.sendStep(EMPTY);
    leader.fail(new Error('late'));
    expect(failures).toEqual([]);
  });

  test('a rank that fails is named to all others, with its code; it is told nothing', async () => {
    const { leader, followers } = await localGroup(3);
    const [first, second] = followers as [Follower, Follower];
    const own: unknown[] = [];
    first.onFailure((error) => own.push(error));
    const failures = [failureOf(leader), failureOf(second)];
    const expected = { code: 'ERR_KVASIR_RANK', message: 'rank 1: expected 3 GiB', cause: { code: 'ERR_KVASIR_OUT_OF_MEMORY', message: 'expected 3 GiB' } };
    const waiting = [leader, second].map((rank) => expect(rank.exchange(bytesOf('x'))).rejects.toMatchObject(expected));
    first.fail(new KvasirError('ERR_KVASIR_OUT_OF_MEMORY', 'expected 3 GiB'));
    for (const failure of failures) expect(await failure).toMatchObject(expected);
    await Promise.all(waiting);
    expect(await failureOf(leader)).toMatchObject(expected); // heard late, told at once
    expect(own).toEqual([]);
    await Promise.all([leader.close(), first.close(), second.close()]);
  });

  test('rank 0 that fails is named to all others', async () => {
    const { leader, followers, close } = await localGroup(2);
    const failure = failureOf(followers[0]!);
    leader.fail(new TypeError('x is not a function'));
    expect(await failure).toMatchObject({ code: 'ERR_KVASIR_RANK', message: 'rank 0: x is not a function', cause: { message: 'x is not a function' } });
    await close();
  });

  test('a rank that leaves on its own is missed', async () => {
    const { leader, followers, close } = await localGroup(3);
    const failures = [failureOf(leader), failureOf(followers[1]!)];
    await followers[0]!.close();
    for (const failure of failures) expect(await failure).toMatchObject({ code: 'ERR_KVASIR_RANK', message: 'rank 1: left the group' });
    await close();
  });

  test('of one rank is complete at once', async () => {
    const { leader, close } = await localGroup(1);
    expect(textsOf(await leader.exchange(bytesOf('alone')))).toEqual(['alone']);
    leader.sendStep(EMPTY);
    await close();
  });

  test('can be started on the port of one that ended', async () => {
    const server = await bindLeader(options(0, 2, 0));
    const { port } = server;
    const [leader, follower] = await Promise.all([server.accept(), joinAsFollower(options(1, 2, port))]);
    await leader.close();
    await follower.close();
    const next = await bindLeader(options(0, 2, port));
    const ranks = await Promise.all([next.accept(), joinAsFollower(options(1, 2, port))]);
    await Promise.all(ranks.map((rank) => rank.close()));
    expect(next.port).toBe(port);
  });

  test('takes no connections once it is complete', async () => {
    const server = await bindLeader(options(0, 2, 0));
    const ranks = await Promise.all([server.accept(), joinAsFollower(options(1, 2, server.port))]);
    const late = joinAsFollower(options(1, 2, server.port, { timeoutMs: 300 }));
    await expect(late).rejects.toMatchObject({ code: 'ERR_KVASIR_LAUNCH', message: expect.stringMatching(/ECONNREFUSED/) });
    await Promise.all(ranks.map((rank) => rank.close()));
  });
});
