import { LLM, type RequestOutput } from '../../lib/index';
import { KvasirError } from '../../lib/utils/errors';
import { bytesOf } from './fixtures/byte-tokenizer';
import { testLLM } from './fixtures/config';
import { ScriptedExecutor } from './fixtures/scripted-executor';

const endless = () => new ScriptedExecutor(() => bytesOf('x'.repeat(500)));
const long = { maxTokens: 400 };
const turns = (ms = 10) => new Promise((resolve) => setTimeout(resolve, ms));

/** A step that waits until it is let go. */
function gated(executor: ScriptedExecutor): () => void {
  let release = (): void => undefined;
  executor.gate = new Promise((resolve) => (release = resolve));
  return () => {
    executor.gate = null;
    release();
  };
}

const unhandled: unknown[] = [];
const onUnhandled = (error: unknown): void => void unhandled.push(error);
beforeAll(() => void process.on('unhandledRejection', onUnhandled));
afterAll(async () => {
  await turns();
  process.off('unhandledRejection', onUnhandled);
  expect(unhandled).toEqual([]);
});

describe('abort', () => {
  test('a signal rejects generate with its reason, and every request of it is gone', async () => {
    const executor = endless();
    const llm = await testLLM(executor);
    const controller = new AbortController();
    const running = llm.generate(['a', 'b', 'c'], { n: 2, ...long }, { signal: controller.signal });
    await turns();
    controller.abort();
    await expect(running).rejects.toMatchObject({ name: 'AbortError' });
    expect(await llm.stats()).toMatchObject({ numRunning: 0, numWaiting: 0 });
    await turns();
    expect(executor.running.size).toBe(0);
    await expect(llm.generate('d', long, { signal: controller.signal })).rejects.toBe(controller.signal.reason);
    expect((await llm.generate('e', { maxTokens: 3 }))[0]?.outputs[0]?.text).toBe('xxx');
    await llm.close();
  });

  test('a signal rejects the pending next() of a stream, also while the step runs', async () => {
    const executor = endless();
    const llm = await testLLM(executor);
    const release = gated(executor);
    const controller = new AbortController();
    const stream = llm.stream('a', long, { signal: controller.signal });
    const pending = stream.next();
    await turns();
    controller.abort(new Error('enough'));
    await expect(pending).rejects.toThrow('enough');
    expect(await stream.next()).toEqual({ done: true, value: undefined });
    release();
    await turns();
    expect(executor.running.size).toBe(0);
    await llm.close();
  });

  test('a signal of finished requests holds no listener', async () => {
    const llm = await testLLM(endless());
    const { signal } = new AbortController();
    let listeners = 0;
    const add = signal.addEventListener.bind(signal);
    const remove = signal.removeEventListener.bind(signal);
    signal.addEventListener = (...args: Parameters<typeof add>) => (listeners++, add(...args));
    signal.removeEventListener = (...args: Parameters<typeof remove>) => (listeners--, remove(...args));
    await llm.generate(['a', 'b'], { maxTokens: 2 }, { signal });
    for await (const _output of llm.stream('c', { maxTokens: 2 }, { signal }));
    for await (const _output of llm.stream('c', long, { signal })) break;
    expect(listeners).toBe(0);
    await llm.close();
  });

  test('abort(requestId) ends a stream with what there is', async () => {
    const llm = await testLLM(endless());
    let last: RequestOutput | null = null;
    for await (const output of llm.stream('a', { n: 2, ...long }, { requestId: 'mine' })) {
      if (last === null) expect(llm.abort('mine')).toBe(true);
      last = output;
    }
    expect(last).toMatchObject({ requestId: 'mine', finished: true, outputs: [{ finishReason: 'abort' }, { finishReason: 'abort' }] });
    expect(last!.outputs[0]!.text).toMatch(/^x+$/);
    expect(llm.abort('mine')).toBe(false);
    await llm.close();
  });

  test('a requestId in use is refused, and free again afterwards', async () => {
    const llm = await testLLM(endless());
    const first = llm.stream('a', long, { requestId: '0' });
    await first.next();
    await expect(llm.stream('b', long, { requestId: '0' }).next()).rejects.toMatchObject({ code: 'ERR_KVASIR_PARAMS' });
    await expect(llm.stream('b', long, { requestId: '' }).next()).rejects.toMatchObject({ code: 'ERR_KVASIR_PARAMS' });
    expect(await llm.generate('c', { maxTokens: 1 })).toHaveLength(1);
    await first.return(undefined);
    expect((await llm.stream('b', long, { requestId: '0' }).next()).done).toBe(false);
    await llm.close();
  });
});

describe('failures', () => {
  test('NaN logits end one sequence with finishReason error; the others go on', async () => {
    const executor = endless();
    executor.poisoned.add('1#0');
    const llm = await testLLM(executor);
    const outputs = await llm.generate(['a', 'b', 'c'], { maxTokens: 3 });
    expect(outputs.map((o) => o.outputs[0]?.finishReason)).toEqual(['length', 'error', 'length']);
    expect(outputs[1]?.outputs[0]?.error).toEqual({ code: 'ERR_KVASIR_NAN_LOGITS', message: 'NaN logits' });
    await llm.close();
  });

  test('a text that cannot be made fails its request only', async () => {
    const llm = await testLLM(endless());
    const tokenizer = llm.tokenizer!;
    const create = tokenizer.createDecodeStream.bind(tokenizer);
    let calls = 0;
    tokenizer.createDecodeStream = (options) => {
      const stream = create(options);
      if (calls++ === 0) stream.push = (id) => (id === 120 ? fail('broken detokenizer') : '');
      return stream;
    };
    const broken = llm.generate('a', long);
    const fine = llm.generate('b', { maxTokens: 3 });
    await expect(broken).rejects.toThrow('broken detokenizer');
    expect((await fine)[0]?.outputs[0]?.text).toBe('xxx');
    expect(await llm.stats()).toMatchObject({ numRunning: 0 });
    await llm.close();
  });

  test('a failing executor kills the engine: every request and later call fails with ERR_KVASIR_ENGINE_DEAD', async () => {
    const executor = endless();
    const llm = await testLLM(executor);
    executor.failAt = { step: 3, error: new KvasirError('ERR_KVASIR_OUT_OF_MEMORY', 'no memory left') };
    const stream = llm.stream('s', long);
    const all = [llm.generate(['a', 'b'], long), llm.generate('c', long), (async () => { for await (const _ of stream); })()];
    for (const result of await Promise.allSettled(all)) {
      expect(result).toMatchObject({ status: 'rejected', reason: { code: 'ERR_KVASIR_ENGINE_DEAD' } });
      expect((result as PromiseRejectedResult).reason.message).toContain('no memory left');
    }
    await expect(llm.generate('d')).rejects.toMatchObject({ code: 'ERR_KVASIR_ENGINE_DEAD' });
    await expect(llm.stream('d').next()).rejects.toMatchObject({ code: 'ERR_KVASIR_ENGINE_DEAD' });
    await expect(llm.stats()).rejects.toMatchObject({ code: 'ERR_KVASIR_ENGINE_DEAD' });
    await llm.close();
    expect(executor.shutdowns).toBe(1);
  });

  test('an error of onProgress rejects the call and ends its requests', async () => {
    const llm = await testLLM(endless());
    const params = [{ maxTokens: 1 }, long];
    await expect(llm.generate(['a', 'b'], params, { onProgress: () => fail('mine') })).rejects.toThrow('mine');
    expect(await llm.stats()).toMatchObject({ numRunning: 0 });
    await llm.close();
  });
});

describe('close', () => {
  test('requests that run fail with ERR_KVASIR_CLOSED, as do later calls; idempotent', async () => {
    const executor = endless();
    const llm = await testLLM(executor);
    const running = llm.generate('a', long);
    const stream = llm.stream('b', long);
    await stream.next();
    const results = Promise.allSettled([running, stream.next().then(() => stream.next())]);
    await Promise.all([llm.close(), llm.close()]);
    await llm.close();
    for (const result of await results) expect(result).toMatchObject({ status: 'rejected', reason: { code: 'ERR_KVASIR_CLOSED' } });
    expect(executor.shutdowns).toBe(1);
    const calls = [llm.generate('a'), llm.chat([{ role: 'user', content: 'x' }]), llm.stream('a').next(), llm.stats(), llm.resetPrefixCache()];
    for (const result of await Promise.allSettled(calls)) expect(result).toMatchObject({ status: 'rejected', reason: { code: 'ERR_KVASIR_CLOSED' } });
  });

  test('close waits for the step in flight before memory is freed', async () => {
    const executor = endless();
    const llm = await testLLM(executor);
    const release = gated(executor);
    const running = llm.generate('a', long);
    await turns();
    const closing = llm.close();
    await expect(running).rejects.toMatchObject({ code: 'ERR_KVASIR_CLOSED' });
    expect(executor.shutdowns).toBe(0);
    release();
    await closing;
    expect(executor.shutdowns).toBe(1);
  });

  test('await using closes', async () => {
    const executor = endless();
    const llm: LLM = await testLLM(executor);
    await llm[Symbol.asyncDispose]();
    expect(executor.shutdowns).toBe(1);
  });
});

function fail(message: string): never {
  throw new Error(message);
}
