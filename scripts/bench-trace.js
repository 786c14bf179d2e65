'use strict';
// Serves requests with the lengths of a real trace, all of them there from the start, and prints one JSON line: output tokens/s,
// percentiles of the time to the first token and between tokens, and on an NVIDIA GPU the share of time it was busy.
//   node scripts/bench-trace.js <model directory | config.json> --trace azure_llm_2023_conv.csv [--requests 512] [--max-input 2048]
//     [--max-output 512] [--load-format dummy] [--device auto] [--dtype auto] [--max-num-seqs 256]
// The trace is a CSV with the columns ContextTokens and GeneratedTokens (Azure LLM inference dataset, 2023). Prompts are random tokens.

const { spawn } = require('node:child_process');
const fs = require('node:fs');
const { parseArgs } = require('node:util');
const { LLM } = require('..');

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    trace: { type: 'string' },
    requests: { type: 'string', default: '512' },
    'max-input': { type: 'string', default: '2048' },
    'max-output': { type: 'string', default: '512' },
    'load-format': { type: 'string', default: 'auto' },
    device: { type: 'string', default: 'auto' },
    dtype: { type: 'string', default: 'auto' },
    'max-num-seqs': { type: 'string', default: '256' },
  },
});

/** Lengths of requests spread evenly over the trace. */
function readTrace(file, count, maxInput, maxOutput) {
  const [header, ...rows] = fs.readFileSync(file, 'utf8').trim().split(/\r?\n/);
  const columns = header.replace(/^\ufeff/, '').split(',');
  const [input, output] = ['ContextTokens', 'GeneratedTokens'].map((name) => columns.indexOf(name));
  if (input < 0 || output < 0) throw new Error(`expected columns ContextTokens and GeneratedTokens in ${file}, found ${header}`);
  return Array.from({ length: count }, (_, i) => {
    const row = rows[Math.floor((i * rows.length) / count)].split(',');
    return { input: Math.max(1, Math.min(maxInput, Number(row[input]))), output: Math.max(1, Math.min(maxOutput, Number(row[output]))) };
  });
}

function percentiles(numbers) {
  const sorted = numbers.slice().sort((a, b) => a - b);
  const at = (p) => Math.round(sorted[Math.min(sorted.length - 1, Math.floor(p * sorted.length))] * 100) / 100;
  return { p50: at(0.5), p90: at(0.9), p99: at(0.99) };
}

/** Samples nvidia-smi's utilization while the requests run; null where there is none. */
function watchGpu() {
  const samples = [];
  const child = spawn('nvidia-smi', ['--query-gpu=utilization.gpu', '--format=csv,noheader,nounits', '-lms', '100']);
  child.on('error', () => undefined); // no NVIDIA GPU here: no samples
  child.stdout.on('data', (text) => samples.push(...String(text).trim().split('\n').map(Number)));
  return () => {
    child.kill();
    return samples.length ? samples.reduce((a, b) => a + b, 0) / samples.length / 100 : null;
  };
}

async function main() {
  const [model] = positionals;
  if (!model || !values.trace) throw new Error('usage: node scripts/bench-trace.js <model> --trace FILE.csv');
  const lengths = readTrace(values.trace, Number(values.requests), Number(values['max-input']), Number(values['max-output']));
  const llm = await LLM.create({
    model, loadFormat: values['load-format'], device: values.device, dtype: values.dtype, maxNumSeqs: Number(values['max-num-seqs']),
    maxModelLen: Number(values['max-input']) + Number(values['max-output']), enablePrefixCaching: false,
  });
  try {
    const vocabSize = llm.config.model.vocabSize;
    const prompts = lengths.map(({ input }, i) => ({ promptTokenIds: Array.from({ length: input }, (_, j) => (i * 7919 + j * 104729) % vocabSize) }));
    const params = lengths.map(({ output }) => ({ temperature: 0, maxTokens: output, ignoreEos: true, detokenize: false }));
    await llm.generate(prompts.slice(0, 8), params.slice(0, 8).map((p) => ({ ...p, maxTokens: 4 }))); // warm-up
    const stopWatching = watchGpu();
    const start = performance.now();
    const outputs = await llm.generate(prompts, params);
    const seconds = (performance.now() - start) / 1000;
    const busy = stopWatching();
    const tokens = outputs.map((o) => o.outputs[0].tokenIds.length);
    const total = tokens.reduce((a, b) => a + b, 0);
    const times = outputs.map((o) => o.metrics);
    process.stdout.write(`${JSON.stringify({
      benchmark: 'trace', model, requests: outputs.length, inputTokens: lengths.reduce((a, l) => a + l.input, 0), outputTokens: total, seconds,
      outputTokensPerSecond: total / seconds, totalTokensPerSecond: (total + lengths.reduce((a, l) => a + l.input, 0)) / seconds,
      ttftMs: percentiles(times.map((t) => t.firstTokenTime - t.arrivalTime)),
      itlMs: percentiles(times.flatMap((t, i) => (tokens[i] > 1 ? [(t.finishedTime - t.firstTokenTime) / (tokens[i] - 1)] : []))),
      gpuBusyShare: busy, numPreemptions: (await llm.stats()).numPreemptions,
    })}\n`);
  } finally {
    await llm.close();
  }
}

main().catch((error) => {
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 1;
});
