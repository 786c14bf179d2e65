import { loadBinding } from '../../lib/binding/load';
import type { EngineArgs, LLM } from '../../lib/index';
import type { Device } from '../../lib/tensor/device';
import { ModelRunner } from '../../lib/worker/model-runner';
import { expectCode } from '../fixtures/expect-error';
import { expectNothingLeft, open, randomPrompt, TALES } from './workload';

const prompts = Array.from({ length: 6 }, (_, i) => ({ promptTokenIds: randomPrompt(i, 20, 2048) }));
const LONG = { temperature: 0, maxTokens: 100, ignoreEos: true };

/** Lets step number `at` fail as `fail` says; the steps before it are as always. */
function failAt(at: number, fail: (runner: { device: Device }) => void): void {
  const { execute } = ModelRunner.prototype;
  let steps = 0;
  jest.spyOn(ModelRunner.prototype, 'execute').mockImplementation(function (this: ModelRunner, step) {
    if (++steps === at) fail(this as unknown as { device: Device });
    return execute.call(this, step);
  });
}

const FAILURES: Record<string, { fail: (runner: { device: Device }) => void; message: RegExp }> = {
  'an exception while a step is queued': {
    fail: () => {
      throw new Error('broken runner');
    },
    message: /broken runner/,
  },
  'an exception inside forward()': {
    fail: () => {
      let calls = 0;
      const { pagedAttention } = loadBinding();
      jest.spyOn(loadBinding(), 'pagedAttention').mockImplementation((...args) => {
        if (++calls === 3) throw new Error('broken op');
        pagedAttention(...args);
      });
    },
    message: /broken op/,
  },
  'a C++ exception at the call': { fail: ({ device }) => loadBinding().raise(device.stream, 0), message: /raised at the call/ },
  'a C++ exception in queued work': { fail: ({ device }) => loadBinding().raise(device.stream, 1), message: /raised in queued work/ },
};

/** Registers the tests of an engine that fails in the middle of its work, with kvasir-tales-5m. */
export function failureSuite(args: Partial<EngineArgs> = {}): void {
  afterEach(() => {
    jest.restoreAllMocks();
    expectNothingLeft();
  });

  async function expectDead(llm: LLM, message: RegExp): Promise<void> {
    const [all, stream] = await Promise.all([
      expectCode('ERR_KVASIR_ENGINE_DEAD', () => llm.generate(prompts, LONG)),
      expectCode('ERR_KVASIR_ENGINE_DEAD', async () => {
        for await (const _output of llm.stream(prompts[0]!, LONG));
      }),
    ]);
    expect(all.message).toMatch(message);
    expect(stream.message).toBe(all.message);
    await expectCode('ERR_KVASIR_ENGINE_DEAD', () => llm.generate(prompts[0]!));
  }

  test.each(Object.keys(FAILURES))('%s: every request hears of it, and close() frees everything', async (name) => {
    for (const [at, asyncScheduling] of [[1, false], [2, true], [7, false], [8, true]] as const) {
      const llm = await open(TALES, { maxNumSeqs: 8, ...args, asyncScheduling });
      failAt(at, FAILURES[name]!.fail);
      try {
        await expectDead(llm, FAILURES[name]!.message);
      } finally {
        await llm.close();
      }
      jest.restoreAllMocks();
      expectNothingLeft();
    }
  });

  test('(and an engine of the same thread runs on)', async () => {
    const sound = await open(TALES, { maxNumSeqs: 8, ...args });
    const before = await sound.generate(prompts, { ...LONG, maxTokens: 10 });
    const broken = await open(TALES, { maxNumSeqs: 8, ...args });
    const { raise } = loadBinding();
    failAt(3, ({ device }) => raise(device.stream, 1));
    await expectDead(broken, /raised in queued work/);
    jest.restoreAllMocks();
    const after = await sound.generate(prompts, { ...LONG, maxTokens: 10 });
    expect(after.map((o) => o.outputs)).toEqual(before.map((o) => o.outputs));
    await Promise.all([broken.close(), sound.close()]);
  });
}
