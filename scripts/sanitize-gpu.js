'use strict';
// `npm run sanitize:gpu`: the kernels of whole engine runs under NVIDIA's compute-sanitizer: memcheck finds accesses outside of
// allocations, racecheck hazards between threads in shared memory. Each process runs the example model with and without graphs.
//
//   node scripts/sanitize-gpu.js [--tools memcheck,racecheck] [--dtypes bfloat16,float32] [--cublaslt] [--sanitizer FILE] [--limit 200]
//
// The matrix kernels are those of this package unless --cublaslt. --limit: seconds for each tool and dtype. Exit code 1 on any error that
// is found, and when the sanitizer is missing or does not finish; without a CUDA device it says so and ends with 0.

const { spawn } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { parseArgs } = require('node:util');
const { ROOT, UserError, findOnPath, runMain } = require('./common.js');
const { canTest } = require('./test-gpu.js');

const TOOLS = ['memcheck', 'racecheck', 'initcheck', 'synccheck'];
const DTYPES = ['bfloat16', 'float16', 'float32'];
const MODEL = path.join(ROOT, 'examples', 'models', 'kvasir-tales-5m');
/** What the sanitizer is to exit with when it found something: unlike any exit code of the program. */
const FOUND = 86;

/** The sanitizer on PATH or in a CUDA toolkit below /usr/local. */
function findSanitizer() {
  const local = '/usr/local';
  const toolkits = fs.existsSync(local) ? fs.readdirSync(local).filter((name) => name.startsWith('cuda')).sort() : [];
  const places = toolkits.flatMap((name) => ['bin', 'compute-sanitizer'].map((dir) => path.join(local, name, dir, 'compute-sanitizer')));
  const found = findOnPath(['compute-sanitizer', ...places.filter((file) => fs.existsSync(file))]);
  if (found === null) throw new UserError('compute-sanitizer was found neither on PATH nor in /usr/local/cuda*/bin; it comes with the CUDA toolkit. --sanitizer names it.');
  return found;
}

/** Errors in the sanitizer's output: 0 only where it says so and the program ended well; otherwise what is wrong. */
function verdict(output, code) {
  const summary = /^=+ (?:ERROR|RACECHECK) SUMMARY: (.+)$/m.exec(output);
  if (code === FOUND) return `found errors: ${summary === null ? 'no summary' : summary[1]}`;
  if (code !== 0) return `the program ended with ${code === null ? 'a signal (or ran out of time)' : `exit code ${code}`}`;
  if (summary === null) return 'the sanitizer printed no summary';
  return /^0 (errors|hazards displayed \(0 errors)/.test(summary[1]) ? null : `found errors: ${summary[1]}`;
}

function runTool(sanitizer, tool, dtype, { cublaslt, limit }) {
  const args = ['--tool', tool, '--error-exitcode', String(FOUND), '--print-limit', '20', process.execPath, __filename, '--workload', JSON.stringify({ device: 'cuda', dtype })];
  const env = { ...process.env, ...(cublaslt ? {} : { KVASIR_CUBLASLT_PATH: path.join(ROOT, 'none') }) };
  return new Promise((resolve, reject) => {
    const child = spawn(sanitizer, args, { cwd: ROOT, env, stdio: ['ignore', 'pipe', 'pipe'], detached: true });
    // The program is the sanitizer's child: only the group ends both, and no signal to this process reaches it.
    const end = () => process.kill(-child.pid, 'SIGKILL');
    const interrupt = () => { end(); process.exit(130); };
    const timer = setTimeout(end, limit * 1000);
    for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, interrupt);
    let output = '';
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => { output += chunk; process.stdout.write(chunk); });
    child.on('error', reject);
    child.on('close', (code) => {
      clearTimeout(timer);
      for (const signal of ['SIGINT', 'SIGTERM']) process.off(signal, interrupt);
      resolve(verdict(output, code));
    });
  });
}

/** What runs under the sanitizer: prompts of all lengths, decoding in batches that graphs pad, sampling of every kind, the prefix cache. */
async function workload(options) {
  const { LLM } = require(path.join(ROOT, 'dist', 'index.js'));
  const kinds = [
    { temperature: 0 },
    { temperature: 0.8, topP: 0.9, topK: 40, seed: 1 },
    { temperature: 1, minP: 0.05, seed: 2, logprobs: 3 },
    { temperature: 0.7, seed: 3, repetitionPenalty: 1.2, presencePenalty: 0.3, logitBias: { 7: 2 } },
    { temperature: 0, promptLogprobs: 2, allowedTokenIds: [5, 6, 7, 8] },
  ];
  const lengths = [1, 16, 17, 90, 300];
  const prompts = lengths.map((length, i) => ({ promptTokenIds: Array.from({ length }, (_, k) => 5 + ((k * k + 31 * i) % 2000)) }));
  for (const enforceEager of [true, false]) {
    const llm = await LLM.create({ model: MODEL, maxNumSeqs: 8, maxNumBatchedTokens: 256, numKvBlocks: 200, ...options, enforceEager });
    // The second time prompts come from the prefix cache, and steps are launches of graphs.
    for (let i = 0; i < 2; i += 1) {
      const outputs = await llm.generate(prompts, kinds.map((kind) => ({ ...kind, maxTokens: 6, ignoreEos: true })));
      if (outputs.some((output) => output.outputs[0].tokenIds.length !== 6)) throw new Error('a request ended early');
    }
    await llm.close();
    process.stdout.write(`${options.dtype}: ran ${enforceEager ? 'without' : 'with'} graphs\n`);
  }
}

function list(text, known, flag) {
  const items = text.split(',');
  if (!items.every((item) => known.includes(item))) throw new UserError(`--${flag} must be a list of ${known.join(', ')}; received "${text}".`);
  return items;
}

async function main() {
  const { values } = parseArgs({
    options: {
      tools: { type: 'string', default: 'memcheck,racecheck' }, dtypes: { type: 'string', default: 'bfloat16,float32' }, cublaslt: { type: 'boolean', default: false },
      sanitizer: { type: 'string' }, limit: { type: 'string', default: '200' }, workload: { type: 'string' },
    },
  });
  if (values.workload !== undefined) return workload(JSON.parse(values.workload));
  const [tools, dtypes, limit] = [list(values.tools, TOOLS, 'tools'), list(values.dtypes, DTYPES, 'dtypes'), Number(values.limit)];
  if (!(limit > 0)) throw new UserError(`--limit must be a positive number of seconds; received "${values.limit}".`);
  if (!(await canTest())) return 0;
  const sanitizer = values.sanitizer ?? findSanitizer();
  const problems = [];
  for (const tool of tools) {
    for (const dtype of dtypes) {
      const problem = await runTool(sanitizer, tool, dtype, { cublaslt: values.cublaslt, limit });
      process.stdout.write(`${tool}, ${dtype}: ${problem ?? 'no errors'}\n`);
      if (problem !== null) problems.push(`${tool}, ${dtype}`);
    }
  }
  process.stdout.write(problems.length === 0 ? 'compute-sanitizer found nothing\n' : `compute-sanitizer: problems in ${problems.join('; ')}\n`);
  return problems.length === 0 ? 0 : 1;
}

module.exports = { runTool, verdict };

if (require.main === module) runMain(main);
