import { spawn } from 'node:child_process';
import * as path from 'node:path';
import { closeSuite } from './close-suite';
import { STORIES, TALES } from './workload';

const ROOT = path.resolve(__dirname, '../..');

for (const model of [STORIES, TALES]) {
  (model.missing ? describe.skip : describe)(`close() of ${model.name}`, () => closeSuite(model));
}

/** How a program ends: what it prints, with which exit code, and that it ends at all. */
const PROGRAMS: readonly (readonly [name: string, body: string, stdout: string, code?: number])[] = [
  ['ends after close()', `const llm = await LLM.create(model); await llm.generate('Once', P); await llm.close(); say('closed');`, 'closed'],
  ['ends without close() when idle', `const llm = await LLM.create(model); await llm.generate('Once', P); say('idle');`, 'idle'],
  ['runs to the end of what it asked for', `const llm = await LLM.create(model); llm.generate('Once', { ...P, maxTokens: 200 }).then(([o]) => say(o.outputs[0].tokenIds.length));`, '200'],
  ['ends after a failed create()', `await LLM.create({ ...model, numKvBlocks: 2 ** 31 - 1 }).catch((e) => say(e.code));`, 'ERR_KVASIR_OUT_OF_MEMORY'],
  ['ends after an aborted stream', `const llm = await LLM.create(model); for await (const o of llm.stream('Once', L)) break; say('left');`, 'left'],
  ['exits in the middle of a step', `const llm = await LLM.create(model); llm.generate(many, L); setTimeout(() => { say('now'); process.exit(3); }, 100);`, 'now', 3],
  ['dies of its own exception in the middle of a step', `const llm = await LLM.create(model); llm.generate(many, L); setTimeout(() => { say('now'); throw new Error('own'); }, 100);`, 'now', 1],
  ['(AsyncLLM) ends after close()', `const llm = await AsyncLLM.create(model); for await (const o of llm.generate('Once', P)); await llm.close(); say('closed');`, 'closed'],
  ['(AsyncLLM) ends without close() when idle', `const llm = await AsyncLLM.create(model); for await (const o of llm.generate('Once', P)); say('idle');`, 'idle'],
  ['(AsyncLLM) ends without a request', `await AsyncLLM.create(model); say('idle');`, 'idle'],
  ['(AsyncLLM) runs to the end of what it asked for', `const llm = await AsyncLLM.create(model); (async () => { let n; for await (const o of llm.generate('Once', { ...P, maxTokens: 200 })) n = o.outputs[0].tokenIds.length; say(n); })();`, '200'],
  ['(AsyncLLM) ends after a failed create()', `await AsyncLLM.create({ ...model, numKvBlocks: 2 ** 31 - 1 }).catch((e) => say(e.code));`, 'ERR_KVASIR_OUT_OF_MEMORY'],
  ['(AsyncLLM) exits in the middle of a step', `const llm = await AsyncLLM.create(model); for (const p of many) llm.generate(p, L).next(); setTimeout(() => { say('now'); process.exit(3); }, 100);`, 'now', 3],
  ['(in a worker_thread) is terminated while it loads and in the middle of a step', `
    const { Worker } = require('node:worker_threads');
    const body = 'const { LLM } = require(' + JSON.stringify(root) + '); require("node:worker_threads").parentPort.postMessage(1);'
      + 'LLM.create(' + JSON.stringify(model) + ').then((llm) => llm.generate("Once", ' + JSON.stringify(L) + ').catch(() => {}))';
    for (const delay of [0, 10, 20, 30, 40, 60, 80, 100, 120]) {
      const worker = new Worker(body, { eval: true });
      await new Promise((resolve) => worker.once('message', () => setTimeout(resolve, delay)));
      await worker.terminate();
    }
    say('terminated');`, 'terminated'],
];

describe('a program', () => {
  test.each(PROGRAMS)('%s', async (_name, body, stdout, code = 0) => {
    const setup = `
      const root = ${JSON.stringify(ROOT)};
      const { LLM, AsyncLLM } = require(root);
      const model = { model: ${JSON.stringify(TALES.path)}, device: 'cpu', maxNumSeqs: 16 };
      const P = { temperature: 0, maxTokens: 3, ignoreEos: true };
      const L = { ...P, maxTokens: 900 };
      const many = Array.from({ length: 16 }, (_, i) => ({ promptTokenIds: [5 + i, 6, 7] }));
      const say = (value) => process.stdout.write(value + '\\n');`;
    const result = await runProgram(`${setup}\n(async () => { ${body} })();`);
    expect(result).toMatchObject({ stdout: `${stdout}\n`, code, signal: null });
    if (code !== 1) expect(result.stderr).toBe('');
    // From the last words to the end of the process.
    expect(result.lingered).toBeLessThan(3000);
  });
});

function runProgram(source: string): Promise<{ stdout: string; stderr: string; code: number | null; signal: string | null; lingered: number }> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, ['-e', source], { cwd: ROOT, timeout: 30_000 });
    let [stdout, stderr, spoke] = ['', '', NaN];
    child.stdout.on('data', (data: Buffer) => {
      stdout += data.toString();
      spoke = performance.now();
    });
    child.stderr.on('data', (data: Buffer) => (stderr += data.toString()));
    child.on('error', reject);
    child.on('close', (code, signal) => resolve({ stdout, stderr, code, signal, lingered: performance.now() - spoke }));
  });
}
