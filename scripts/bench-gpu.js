'use strict';
// `npm run bench:gpu`: what the CUDA backend reaches beside the ceilings of the machine, measured in the same run. Prints JSON lines:
// the kernels' own benchmarks, then `kvasir bench latency` by model and batch with the share of the floor (the bytes of a decode step
// at the measured read bandwidth), then PyTorch's numbers and the ratio to them where python3 has torch.
//
//   node scripts/bench-gpu.js [--models 1b,8b] [--batches 1,32,128] [--input-len 128] [--output-len 128] [--kernels all|bandwidth|none]
//                             [--torch 1b,8b|none] [--limit 300] [--tp 1,2]
//
// --tp: numbers of ranks, with a GPU each, over which every model runs; the floor of several is that of one divided by their number.
// --limit: seconds for each program. A program that fails or runs out of time gives a line with "error"; the others still run, and the
// exit code is 1.

const { spawn } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { parseArgs } = require('node:util');
const { ROOT, UserError, readJson, runMain } = require('./common.js');
const { BENCH_DIR } = require('./build-cuda.js');

const MODELS = { '1b': 'llama-3.2-1b.json', '8b': 'llama-3-8b.json' };
const ELEMENT_BYTES = 2; // bfloat16

function print(row) {
  process.stdout.write(`${JSON.stringify(row)}\n`);
}

/** Runs a program with a time limit and passes its output on line by line; resolves with null or what went wrong. */
function runLines(program, args, limitSeconds, onLine) {
  return new Promise((resolve) => {
    const child = spawn(program, args, { cwd: ROOT, stdio: ['ignore', 'pipe', 'pipe'] });
    const timer = setTimeout(() => child.kill('SIGKILL'), limitSeconds * 1000);
    let rest = '';
    let errors = '';
    child.stdout.on('data', (chunk) => {
      const lines = (rest + chunk).split('\n');
      rest = lines.pop();
      for (const line of lines) if (line.trim() !== '') onLine(line);
    });
    child.stderr.on('data', (chunk) => { errors = (errors + chunk).slice(-2000); });
    child.on('error', (error) => {
      clearTimeout(timer);
      resolve(error.message);
    });
    child.on('close', (code, signal) => {
      clearTimeout(timer);
      if (rest.trim() !== '') onLine(rest);
      if (code === 0) resolve(null);
      else resolve(`${signal === null ? `exit code ${code}` : `ended by ${signal} (the limit is ${limitSeconds} s)`}: ${errors.trim()}`);
    });
  });
}

/** A line of a program as a row: its JSON object with where it came from, or its text. */
function rowOf(source, line) {
  try {
    const value = JSON.parse(line);
    if (typeof value === 'object' && value !== null) return { source, ...value };
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
  }
  return { source, text: line };
}

/** Bytes that one decode step must read: every weight but an untied embedding table, and the KV cache of `batch` contexts. */
function decodeStepBytes(config, batch, context) {
  const { hidden_size: hidden, head_dim: headDim, num_hidden_layers: layers } = config;
  const [q, kv] = [config.num_attention_heads * headDim, config.num_key_value_heads * headDim];
  const perLayer = hidden * (q + 2 * kv) + q * hidden + 3 * hidden * config.intermediate_size + 2 * hidden;
  const weights = layers * perLayer + config.vocab_size * hidden + hidden;
  return ELEMENT_BYTES * (weights + batch * context * 2 * kv * layers);
}

/** The kernels' benchmarks, bandwidth first; the measured read bandwidth in bytes per second, or null. */
async function benchKernels(which, limit, failed) {
  if (which === 'none') return null;
  const names = fs.existsSync(BENCH_DIR) ? fs.readdirSync(BENCH_DIR).filter((name) => name.endsWith('_cuda_bench')).sort() : [];
  names.sort((a, b) => Number(b.startsWith('bandwidth')) - Number(a.startsWith('bandwidth')));
  if (names.length === 0) print({ source: 'kernels', skipped: `there is nothing in ${path.relative(ROOT, BENCH_DIR)}: run "node scripts/build-cuda.js --benches"` });
  let bandwidth = null;
  for (const name of names) {
    if (which === 'bandwidth' && !name.startsWith('bandwidth')) continue;
    const error = await runLines(path.join(BENCH_DIR, name), [], limit, (line) => {
      const row = rowOf(name, line);
      if (typeof row.readGBs === 'number') bandwidth = row.readGBs * 1e9;
      print(row);
    });
    if (error !== null) failed(name, error);
  }
  return bandwidth;
}

async function benchLatency(model, batch, ranks, options, bandwidth, failed) {
  const config = path.join(ROOT, 'examples', 'configs', MODELS[model]);
  const args = [
    path.join(ROOT, 'dist', 'cli', 'main.js'), 'bench', 'latency', config, '--load-format', 'dummy', '--device', 'cuda', '--dtype', 'bfloat16',
    '--batch-size', String(batch), '--input-len', String(options.inputLen), '--output-len', String(options.outputLen),
    '--num-iters', '2', '--num-iters-warmup', '1', '--tensor-parallel-size', String(ranks), '--json',
  ];
  let row = null;
  const error = await runLines(process.execPath, args, options.limit, (line) => { row = rowOf('kvasir', line); });
  if (error !== null || row === null) return failed(`kvasir ${model} batch ${batch}, ${ranks} rank(s)`, error ?? 'it printed nothing');
  const bytes = decodeStepBytes(readJson(config), batch, options.inputLen + options.outputLen / 2);
  const floor = bandwidth === null ? null : bytes / bandwidth / ranks;
  const result = {
    ...row, model, tensorParallelSize: ranks, decodeStepBytes: bytes, floorSecondsPerStep: floor, shareOfFloor: floor === null ? null : floor / row.secondsPerDecodeStep,
  };
  print(result);
  return result;
}

function torchScript() {
  return path.join(process.env.KVASIR_SHARED ?? path.join(ROOT, '..', 'shared'), 'peers', 'torch_baseline.py');
}

/** PyTorch's rows, and for each batch that both measured, tokens per second of ours over theirs. */
async function benchTorch(models, ours, limit, failed) {
  const script = torchScript();
  if (models.length > 0 && !fs.existsSync(script)) return print({ source: 'torch', skipped: `there is no ${script}` });
  const missing = models.length === 0 ? null : await runLines('python3', ['-c', 'import torch'], 120, () => {});
  if (missing !== null) return print({ source: 'torch', skipped: `python3 has no torch: ${missing}` });
  for (const model of models) {
    const best = new Map();
    const error = await runLines('python3', ['-u', script, model], limit, (line) => {
      const row = rowOf('torch', line);
      if (typeof row.tok_s === 'number' && row.B !== undefined) best.set(row.B, Math.max(best.get(row.B) ?? 0, row.tok_s));
      print(row);
    });
    if (error !== null) failed(`torch ${model}`, error);
    for (const row of ours.filter((r) => r.model === model && best.has(r.batchSize))) {
      const theirs = best.get(row.batchSize);
      print({ source: 'ratio', model, batchSize: row.batchSize, kvasirTokensPerSecond: row.decodeTokensPerSecond, torchTokensPerSecond: theirs, ratio: row.decodeTokensPerSecond / theirs });
    }
  }
}

function list(text, accept, what) {
  const items = text === 'none' ? [] : text.split(',').map((item) => item.trim());
  if (!items.every(accept)) throw new UserError(`expected ${what}, received "${text}".`);
  return items;
}

async function main() {
  const defaults = { models: '1b,8b', batches: '1,32,128', 'input-len': '128', 'output-len': '128', kernels: 'all', torch: '1b,8b', limit: '300', tp: '1' };
  const { values } = parseArgs({ options: Object.fromEntries(Object.entries(defaults).map(([name, value]) => [name, { type: 'string', default: value }])) });
  const isCount = (text) => /^[1-9]\d*$/.test(text);
  const models = list(values.models, (name) => name in MODELS, `--models to be a list of ${Object.keys(MODELS).join(', ')}`);
  const batches = list(values.batches, isCount, '--batches to be a list of positive integers').map(Number);
  const sizes = list(values.tp, isCount, '--tp to be a list of positive integers').map(Number);
  const peers = list(values.torch, (name) => name in MODELS, '--torch to be none or a list of models');
  const [inputLen, outputLen, limit] = ['input-len', 'output-len', 'limit'].map((name) => Number(list(values[name], isCount, `--${name} to be a positive integer`)[0]));
  if (!['all', 'bandwidth', 'none'].includes(values.kernels)) throw new UserError(`--kernels must be all, bandwidth or none; received "${values.kernels}".`);

  let failures = 0;
  const failed = (source, error) => {
    failures += 1;
    print({ source, error });
    return null;
  };
  const bandwidth = await benchKernels(values.kernels, limit, failed);
  const ours = [];
  for (const model of models) {
    for (const batch of batches) {
      for (const ranks of sizes) ours.push(await benchLatency(model, batch, ranks, { inputLen, outputLen, limit }, bandwidth, failed));
    }
  }
  await benchTorch(peers, ours.filter((row) => row !== null && row.tensorParallelSize === 1), limit, failed);
  return failures === 0 ? 0 : 1;
}

module.exports = { decodeStepBytes };

if (require.main === module) runMain(main);
