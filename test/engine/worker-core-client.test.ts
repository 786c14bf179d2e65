import { spawnSync } from 'node:child_process';
import * as path from 'node:path';
import { AsyncLLM, type RequestOutput } from '../../lib/index';
import { byteTokenizer, EOS } from './fixtures/byte-tokenizer';
import { testConfig } from './fixtures/config';

const executorModule = path.join(__dirname, 'fixtures/worker-executor.js');
const long = { maxTokens: 400 };

function start(behaviour: string, options: object = {}): Promise<AsyncLLM> {
  const config = testConfig();
  const model = { ...config.model, modelPath: behaviour };
  return AsyncLLM.create({ model: behaviour, ...options }, { config: { ...config, model }, tokenizer: byteTokenizer(), executorModule });
}

async function last(stream: AsyncIterable<RequestOutput>): Promise<RequestOutput> {
  let output: RequestOutput | undefined;
  for await (output of stream);
  if (output === undefined) throw new Error('expected an output');
  return output;
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const from = performance.now();
  await work();
  return performance.now() - from;
}

describe('AsyncLLM with an engine core in a worker_thread', () => {
  test('generates, many requests at once, cumulative and as deltas', async () => {
    const llm = await start('echo');
    const outputs = await Promise.all(Array.from({ length: 100 }, (_, i) => last(llm.generate(`prompt ${i}`, long))));
    expect(outputs.map((o) => o.outputs[0]?.text)).toEqual(outputs.map((_, i) => `prompt ${i}`));
    expect(outputs[0]).toMatchObject({ finished: true, outputs: [{ tokenIds: [...Buffer.from('prompt 0'), EOS], finishReason: 'stop' }] });
    let text = '';
    for await (const output of llm.generate('naïve 😀', { outputKind: 'delta', ...long })) text += output.outputs[0]!.text;
    expect(text).toBe('naïve 😀');
    expect(await last(llm.chat([{ role: 'user', content: 'hi' }], long))).toMatchObject({ outputs: [{ text: '[user]hi[assistant]' }] });
    expect(await llm.stats()).toMatchObject({ numRunning: 0, numWaiting: 0 });
    expect(await llm.resetPrefixCache()).toBe(true);
    await llm.close();
  });

  test('reports progress of the start', async () => {
    const seen: unknown[] = [];
    await (await start('echo', { onProgress: (p: unknown) => seen.push(p) })).close();
    expect(seen).toEqual([{ stage: 'weights', loaded: 1, total: 2 }]);
  });

  test('steps that block the engine thread leave the event loop of the caller free', async () => {
    const llm = await start('blocking');
    let ticks = 0;
    const ticker = setInterval(() => ticks++, 5);
    await last(llm.generate('abcd', long));
    clearInterval(ticker);
    expect(ticks).toBeGreaterThan(10);
    await llm.close();
  });

  test('aborts: a signal, the end of a loop, and by id', async () => {
    const llm = await start('endless');
    const controller = new AbortController();
    const pending = last(llm.generate('a', long, { signal: controller.signal }));
    for await (const _output of llm.generate('b', long)) break;
    const named = last(llm.generate('c', long, { requestId: 'c' }));
    await new Promise((resolve) => setImmediate(resolve));
    expect(llm.abort('c')).toBe(true);
    expect(await named).toMatchObject({ finished: true, outputs: [{ finishReason: 'abort' }] });
    controller.abort(new Error('enough'));
    await expect(pending).rejects.toThrow('enough');
    expect(await llm.stats()).toMatchObject({ numRunning: 0, numWaiting: 0 });
    await llm.close();
  });

  test('errors of the start keep code and message', async () => {
    await expect(start('no-model')).rejects.toMatchObject({ name: 'KvasirError', code: 'ERR_KVASIR_WEIGHTS', message: 'expected weights, received none' });
    await expect(start('no-start')).rejects.toThrow('not a KvasirError');
    await expect(start('exit-at-start')).rejects.toMatchObject({ code: 'ERR_KVASIR_ENGINE_DEAD' });
    await expect(start('echo', { workerImports: ['/no/such/module.js'] })).rejects.toThrow('/no/such/module.js');
    await expect(start('echo', { workerImports: ['relative.js'] })).rejects.toMatchObject({ code: 'ERR_KVASIR_CONFIG' });
  });

  test.each([
    ['fail', 'no memory left'],
    ['exit', 'exit code 7'],
    ['uncaught', 'thrown in a callback'],
    ['unhandled', 'rejected and forgotten'],
  ])('%s: the engine is dead, every request and later call says so', async (behaviour, message) => {
    const llm = await start(behaviour);
    const running = [last(llm.generate('abcdefgh', long)), last(llm.generate('abcdefgh', long))];
    for (const result of await Promise.allSettled(running)) {
      expect(result).toMatchObject({ status: 'rejected', reason: { code: 'ERR_KVASIR_ENGINE_DEAD', message: expect.stringContaining(message) } });
    }
    for (const result of await Promise.allSettled([llm.generate('a').next(), llm.stats(), llm.resetPrefixCache()])) {
      expect(result).toMatchObject({ status: 'rejected', reason: { code: 'ERR_KVASIR_ENGINE_DEAD' } });
    }
    expect(await timed(() => llm.close())).toBeLessThan(2000);
  });

  test('close with requests running: they fail, the thread ends, twice is once', async () => {
    const llm = await start('endless');
    const running = last(llm.generate('a', long));
    const failed = expect(running).rejects.toMatchObject({ code: 'ERR_KVASIR_CLOSED' });
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(await timed(() => Promise.all([llm.close(), llm.close()]))).toBeLessThan(2000);
    await failed;
    await expect(llm.generate('a').next()).rejects.toMatchObject({ code: 'ERR_KVASIR_CLOSED' });
    await expect(llm.stats()).rejects.toMatchObject({ code: 'ERR_KVASIR_CLOSED' });
  });

  test('a thread that does not end is ended; a failure to free is reported', async () => {
    const hanging = await start('hang-at-end');
    expect(await timed(() => hanging.close())).toBeLessThan(2500);
    const failing = await start('fail-at-end');
    await expect(failing.close()).rejects.toMatchObject({ code: 'ERR_KVASIR_NATIVE', message: 'could not free' });
  });

  test('an idle engine does not keep the process alive, a busy one does', () => {
    const program = `
      const { AsyncLLM } = require(${JSON.stringify(path.resolve(__dirname, '../../dist/index.js'))});
      const config = JSON.parse(process.argv[1]);
      config.staticForwardContext = new Map();
      const executorModule = ${JSON.stringify(executorModule)};
      AsyncLLM.create({ model: 'echo' }, { config, tokenizer: null, executorModule }).then(async (llm) => {
        for await (const output of llm.generate({ promptTokenIds: [1, 2, 3] }, { outputKind: 'final' })) console.log(output.outputs[0].tokenIds.join());
      });`;
    const result = spawnSync(process.execPath, ['-e', program, JSON.stringify(testConfig())], { encoding: 'utf8', timeout: 20_000 });
    expect(result).toMatchObject({ stdout: '1,2,3,256\n', stderr: '', status: 0, signal: null });
  });
});
