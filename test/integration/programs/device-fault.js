'use strict';
// Lets a device fail while requests run, and prints as JSON how everything that was waiting or comes later ends. A CUDA context does
// not survive a fault, so this is a process of its own:
//   node device-fault.js LLM|AsyncLLM '{"model": FOLDER, "device": "cpu" | "cuda", ..}'
const path = require('node:path');

const executorModule = path.join(__dirname, 'faulty-executor.js');
if (process.argv[2] === 'LLM') require(executorModule); // in this thread
const dist = path.resolve(__dirname, '../../../dist');
const kvasir = require(path.join(dist, 'index.js'));
const { liveStorages } = require(path.join(dist, 'tensor/device.js'));

const LONG = { temperature: 0, maxTokens: 200, ignoreEos: true };
const DEADLINE_MS = 30_000;

/** How a promise ends: the code it fails with, and the code of what caused that; "done" when it does not fail. */
async function endOf(promise) {
  try {
    await promise;
    return 'done';
  } catch (error) {
    return { code: error.code, cause: error.cause?.code, message: error.message };
  }
}

async function readAll(stream) {
  for await (const _output of stream);
}

async function main() {
  const [, , className, args] = process.argv;
  const engine = await kvasir[className].create(JSON.parse(args), { executorModule: className === 'AsyncLLM' ? executorModule : undefined });
  const prompt = (i) => ({ promptTokenIds: Array.from({ length: 20 + i }, (_, k) => 10 + ((7 * k + i) % 400)) });
  const running = Array.from({ length: 6 }, (_, i) => endOf(readAll(engine.stream(prompt(i), LONG))));
  if (className === 'LLM') running.push(endOf(engine.generate([prompt(7), prompt(8)], LONG)));
  const report = { running: await Promise.all(running) };
  const later = () => [readAll(engine.stream(prompt(0), LONG)), engine.stats(), engine.resetPrefixCache()].map(endOf);
  report.later = await Promise.all(later());
  report.close = [await endOf(engine.close()), await endOf(engine.close())];
  report.closed = await Promise.all(later());
  report.live = liveStorages();
  if (className === 'LLM') report.create = await endOf(kvasir.LLM.create(JSON.parse(args)));
  process.stdout.write(`${JSON.stringify(report)}\n`);
}

const deadline = setTimeout(() => {
  process.stderr.write(`still waiting after ${DEADLINE_MS} ms\n`);
  process.exit(3);
}, DEADLINE_MS);
main().then(() => clearTimeout(deadline));
