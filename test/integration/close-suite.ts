import type { EngineArgs, LLM } from '../../lib/index';
import { expectCode } from '../fixtures/expect-error';
import { expectNothingLeft, mixedWork, open, randomPrompt, runTogether, type TestModel } from './workload';

const LONG = { temperature: 0, maxTokens: 900, ignoreEos: true };
const soon = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** Registers the tests of close(), at every time. */
export function closeSuite(model: TestModel, args: Partial<EngineArgs> = {}): void {
  afterEach(expectNothingLeft);

  const prompts = Array.from({ length: 20 }, (_, i) => ({ promptTokenIds: randomPrompt(i, 30, 512) }));
  let llm: LLM;

  test.each([false, true])('in the middle of generate() fails it with ERR_KVASIR_CLOSED and frees everything (asyncScheduling: %s)', async (asyncScheduling) => {
    llm = await open(model, { ...args, asyncScheduling });
    const running = expectCode('ERR_KVASIR_CLOSED', () => llm.generate(prompts, LONG));
    await soon(50);
    expect((await llm.stats()).numRunning).toBe(20);
    await llm.close();
    expectNothingLeft();
    await running;
    await expectCode('ERR_KVASIR_CLOSED', () => llm.generate(prompts));
    await expectCode('ERR_KVASIR_CLOSED', () => llm.stats());
    await expectCode('ERR_KVASIR_CLOSED', () => llm.stream(prompts[0]!).next());
    await llm.close();
  });

  test('right after generate(), of streams, and while parameters of every kind are in use', async () => {
    llm = await open(model, { ...args, maxNumSeqs: 16 });
    const all = [runTogether(llm, mixedWork(32, 512)), llm.generate(prompts, LONG), llm.stream(prompts[0]!, LONG).next()];
    const results = Promise.allSettled(all);
    await Promise.all([llm.close(), llm.close()]);
    for (const result of await results) expect(result).toMatchObject({ status: 'rejected', reason: { code: 'ERR_KVASIR_CLOSED' } });
  });

  test('by the end of its scope', async () => {
    {
      await using scoped = await open(model, args);
      await scoped.generate(prompts[0]!, { maxTokens: 2 });
      llm = scoped;
    }
    await expectCode('ERR_KVASIR_CLOSED', () => llm.generate(prompts[0]!));
  });

  test('and engines after it, again and again, and two at once', async () => {
    const first = await open(model, { ...args, dtype: 'float32' });
    const [expected] = await first.generate(prompts[0]!, { temperature: 0 });
    for (let i = 0; i < 5; i++) {
      llm = await open(model, { ...args, dtype: 'float32', maxNumSeqs: 4 });
      const [both, here] = await Promise.all([first.generate(prompts[0]!, { temperature: 0 }), llm.generate(prompts[0]!, { temperature: 0 })]);
      expect(both[0]!.outputs).toEqual(expected!.outputs);
      expect(here[0]!.outputs).toEqual(expected!.outputs);
      await llm.close();
    }
    await first.close();
  });
}
