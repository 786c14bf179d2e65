import { type ChildProcess, fork } from 'node:child_process';
import * as path from 'node:path';
import { loadAddon } from '../../lib/binding/load';
import { describeGloo } from '../fixtures/communicators';

const addon = path.resolve(loadAddon().file);
const program = path.join(__dirname, 'rank-program.js');

interface Message {
  readonly address?: string;
  readonly round?: number;
  readonly code?: string;
  readonly message?: string;
  readonly seconds?: number;
}

/** A rank in a process of its own, see rank-program.js. */
class RankProcess {
  readonly child: ChildProcess;
  readonly exit: Promise<string | number | null>;
  private readonly messages: Message[] = [];
  private wake = (): void => undefined;

  constructor(rank: number, size: number, timeoutMs: number) {
    this.child = fork(program, [addon, String(rank), String(size), String(timeoutMs)]);
    this.exit = new Promise((resolve) => this.child.once('exit', (code, signal) => resolve(signal ?? code)));
    this.child.on('message', (message: Message) => {
      this.messages.push(message);
      this.wake();
    });
  }

  async next(wanted: (message: Message) => boolean): Promise<Message> {
    for (;;) {
      const found = this.messages.find(wanted);
      if (found) return found;
      await new Promise<void>((resolve) => (this.wake = resolve));
    }
  }

  round(round: number): Promise<Message> {
    return this.next((message) => message.round === round);
  }

  failure(): Promise<Message> {
    return this.next((message) => message.code !== undefined || message.seconds !== undefined);
  }
}

describeGloo('ranks in processes', () => {
  let ranks: RankProcess[] = [];

  /** Starts ranks that run all-reduces; resolves when each has finished some. */
  async function start(size: number, timeoutMs: number): Promise<RankProcess[]> {
    ranks = Array.from({ length: size }, (_, rank) => new RankProcess(rank, size, timeoutMs));
    const addresses = await Promise.all(ranks.map((rank) => rank.next((message) => message.address !== undefined)));
    for (const rank of ranks) rank.child.send({ addresses: addresses.map((message) => message.address) });
    await Promise.all(ranks.map((rank) => rank.round(20)));
    return ranks;
  }

  afterEach(async () => {
    for (const rank of ranks) if (rank.child.exitCode === null) rank.child.kill('SIGKILL');
    await Promise.all(ranks.map((rank) => rank.exit));
    ranks = [];
  });

  /** Each failed because of a rank that is gone, within these seconds, and then ended in order. */
  async function expectRankErrors(survivors: readonly RankProcess[], least: number, most: number): Promise<void> {
    for (const survivor of survivors) {
      const { code, seconds } = await survivor.failure();
      expect({ code, exit: await survivor.exit }).toEqual({ code: 'ERR_KVASIR_RANK', exit: 0 });
      expect(seconds).toBeGreaterThanOrEqual(least);
      expect(seconds).toBeLessThan(most);
    }
  }

  it.each([2, 3])('of %i, one killed: the others fail at once, long before the timeout', async (size) => {
    const [first, ...others] = await start(size, 60_000);
    others.at(-1)!.child.kill('SIGKILL');
    await expectRankErrors([first!, ...others.slice(0, -1)], 0, 20);
  });

  it('one stopped: abort() of one rank wakes it, and its end the third', async () => {
    const [first, second, third] = await start(3, 60_000);
    second!.child.kill('SIGSTOP');
    await new Promise((resolve) => setTimeout(resolve, 300)); // they wait for it now
    first!.child.send('abort');
    await expectRankErrors([first!, third!], 0.1, 20);
    expect((await first!.failure()).message).toContain('aborted');
  });

  it('one stopped: the others fail after the timeout', async () => {
    const [first, second, third] = await start(3, 1000);
    second!.child.kill('SIGSTOP');
    await expectRankErrors([first!, third!], 0.5, 20);
    const messages = [(await first!.failure()).message, (await third!.failure()).message];
    expect(messages.join('\n')).toMatch(/no answer from rank 1 within 1000 ms/);
  });
});
