'use strict';
// Time from the start of a process to the first token of a model on disk, and where it goes. A JSON line for each run:
//
//   node scripts/bench-startup.js FOLDER [--device cuda] [--dtype bfloat16] [--runs 2] [--input-len 16] [--max-model-len 2048]
//                                 [--make CONFIG.json] [--cold] [--max-load-seconds 6] [--limit 120]
//
// Seconds: of Node until the program runs (nodeSeconds), of require() (importSeconds), of LLM.create (loadSeconds; weightsSeconds of it until
// the last byte is on the device), of generate() with one token (firstTokenSeconds), all since the start of the process (totalSeconds).
// gigabytesPerSecond: bytes of the checkpoint by loadSeconds. --make writes a checkpoint of random weights into FOLDER first, unless there
// is one. Files are read once before, so that they come from the page cache, unless --cold. --max-load-seconds: exit code 1 when a run
// loads for longer. --limit: seconds for a run.

const { spawn, spawnSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { parseArgs } = require('node:util');
const { ROOT, UserError, runMain } = require('./common.js');

/** The process that is measured; times are since its start, before any JavaScript ran. */
async function measure({ inputLen, ...args }) {
  const seconds = () => performance.now() / 1000;
  const started = seconds();
  const { LLM } = require(path.join(ROOT, 'dist', 'index.js'));
  const imported = seconds();
  let weights = null;
  const llm = await LLM.create({ ...args, onProgress: ({ stage, loaded, total }) => { if (stage === 'weights' && loaded === total) weights = seconds(); } });
  const loaded = seconds();
  const promptTokenIds = Array.from({ length: inputLen }, (_, i) => (i * 7919 + 5) % llm.config.model.vocabSize);
  const [output] = await llm.generate({ promptTokenIds }, { temperature: 0, maxTokens: 1, ignoreEos: true, detokenize: false });
  const first = seconds();
  if (output.outputs[0].tokenIds.length !== 1) throw new Error('the model gave no token');
  const row = {
    device: llm.config.device.device, dtype: llm.config.model.dtype, nodeSeconds: started, importSeconds: imported - started, loadSeconds: loaded - imported,
    weightsSeconds: weights === null ? null : weights - imported, firstTokenSeconds: first - loaded, totalSeconds: first, kvBlocks: llm.info.numBlocks,
  };
  await llm.close();
  process.stdout.write(`${JSON.stringify(row)}\n`);
}

function checkpointFiles(dir) {
  return fs.existsSync(dir) ? fs.readdirSync(dir).filter((name) => name.endsWith('.safetensors')).map((name) => path.join(dir, name)) : [];
}

/** Reads files to the end, so that they are in the page cache as far as memory allows. */
function readOnce(files) {
  const buffer = Buffer.allocUnsafe(16 << 20);
  for (const file of files) {
    const fd = fs.openSync(file, 'r');
    try {
      while (fs.readSync(fd, buffer) > 0);
    } finally {
      fs.closeSync(fd);
    }
  }
}

function runOnce(args, limit) {
  return new Promise((resolve, reject) => {
    const before = performance.now();
    const child = spawn(process.execPath, [__filename, '--measure', JSON.stringify(args)], { cwd: ROOT, stdio: ['ignore', 'pipe', 'inherit'], timeout: limit * 1000, killSignal: 'SIGKILL' });
    let output = '';
    child.stdout.on('data', (chunk) => { output += chunk; });
    child.on('error', reject);
    child.on('close', (code, signal) => {
      if (code !== 0) reject(new UserError(`the run ended with ${signal ?? `exit code ${code}`} after ${((performance.now() - before) / 1000).toFixed(1)} s (the limit is ${limit} s).`));
      else resolve({ ...JSON.parse(output), processSeconds: (performance.now() - before) / 1000 });
    });
  });
}

function makeCheckpoint(config, dir) {
  const script = path.join(__dirname, 'make-checkpoint.js');
  const { status } = spawnSync(process.execPath, [script, config, dir], { stdio: ['ignore', 'ignore', 'inherit'] });
  if (status !== 0) throw new UserError(`no checkpoint of ${config} could be written into ${dir}.`);
}

function positive(values, name) {
  const value = Number(values[name]);
  if (!(value > 0)) throw new UserError(`--${name} must be a positive number; received "${values[name]}".`);
  return value;
}

function parse() {
  const text = (value) => ({ type: 'string', ...(value === undefined ? {} : { default: value }) });
  return parseArgs({
    allowPositionals: true,
    options: {
      device: text('auto'), dtype: text('auto'), runs: text('2'), 'input-len': text('16'), 'max-model-len': text(), make: text(), cold: { type: 'boolean', default: false },
      'max-load-seconds': text(), limit: text('120'), measure: text(),
    },
  });
}

async function main() {
  const { values, positionals } = parse();
  if (values.measure !== undefined) return measure(JSON.parse(values.measure));
  const [model] = positionals;
  if (positionals.length !== 1) throw new UserError('usage: bench-startup.js FOLDER [--make CONFIG.json] [options: see the head of this file]');
  if (values.make !== undefined && checkpointFiles(model).length === 0) makeCheckpoint(values.make, model);
  const files = checkpointFiles(model);
  if (files.length === 0) throw new UserError(`${model} holds no safetensors; --make CONFIG.json writes some.`);
  const [runs, inputLen, limit] = ['runs', 'input-len', 'limit'].map((name) => positive(values, name));
  const most = values['max-load-seconds'] === undefined ? Infinity : positive(values, 'max-load-seconds');
  if (!values.cold) readOnce(files);
  const bytes = files.reduce((sum, file) => sum + fs.statSync(file).size, 0);
  const args = { model: path.resolve(model), device: values.device, dtype: values.dtype, inputLen, ...(values['max-model-len'] === undefined ? {} : { maxModelLen: positive(values, 'max-model-len') }) };
  let slow = 0;
  for (let run = 1; run <= runs; run += 1) {
    const row = await runOnce(args, limit);
    if (row.loadSeconds > most) slow += 1;
    process.stdout.write(`${JSON.stringify({ benchmark: 'startup', model, run, bytes, gigabytesPerSecond: bytes / row.loadSeconds / 1e9, ...row })}\n`);
  }
  if (slow > 0) process.stderr.write(`${slow} of ${runs} runs loaded for longer than ${most} s\n`);
  return slow > 0 ? 1 : 0;
}

runMain(main);
