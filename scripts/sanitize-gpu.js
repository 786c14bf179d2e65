'use strict';
// `npm run sanitize:gpu`: the kernels of whole engine runs under NVIDIA's compute-sanitizer: memcheck finds accesses outside of
// allocations, racecheck hazards between threads in shared memory. Each process runs a model with and without graphs, and says on
// standard output where it is and since when, so that a run that is cut off tells how far it came.
//
//   node scripts/sanitize-gpu.js [--tools memcheck,racecheck] [--dtypes bfloat16,float32] [--kernels rmsNorm,sampleRows] [--launches 500]
//                                [--scope full|small] [--cublaslt] [--sanitizer FILE] [--limit 200]
//
// racecheck follows every access to shared memory, hundreds of times slower than memcheck: unless --scope says otherwise it runs a single
// layer without graphs and few tokens, which still launches every kernel of a step. --kernels: only kernels whose names contain one of
// these are checked, --launches: only so many launches of them; the others run at full speed. The matrix kernels are those of this package
// unless --cublaslt. --limit: seconds for each tool and dtype. Exit code 1 on any error that is found, and when the sanitizer is missing or
// does not finish; without a CUDA device it says so and ends with 0.

const { spawn } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { parseArgs } = require('node:util');
const { ROOT, UserError, findOnPath, runMain } = require('./common.js');
const { canTest } = require('./test-gpu.js');

const TOOLS = ['memcheck', 'racecheck', 'initcheck', 'synccheck'];
const DTYPES = ['bfloat16', 'float16', 'float32'];
const SCOPES = ['full', 'small'];
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

/** The sanitizer's arguments before the program. */
function toolArgs(tool, { kernels = [], launches = null }) {
  return [
    '--tool', tool, '--error-exitcode', String(FOUND), '--print-limit', '20',
    ...kernels.flatMap((name) => ['--kernel-name', `kns=${name}`]), ...(launches === null ? [] : ['--launch-count', String(launches)]),
  ];
}

const scopeOf = (tool, scope) => scope ?? (tool === 'racecheck' ? 'small' : 'full');

function runTool(sanitizer, tool, dtype, { cublaslt, limit, scope = null, kernels, launches }) {
  const program = [process.execPath, __filename, '--workload', JSON.stringify({ dtype, scope: scopeOf(tool, scope) })];
  const args = [...toolArgs(tool, { kernels, launches }), ...program];
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

/** Sampling of every kind. */
const KINDS = [
  { temperature: 0 },
  { temperature: 0.8, topP: 0.9, topK: 40, seed: 1 },
  { temperature: 1, minP: 0.05, seed: 2, logprobs: 3 },
  { temperature: 0.7, seed: 3, repetitionPenalty: 1.2, presencePenalty: 0.3, logitBias: { 7: 2 } },
  { temperature: 0, promptLogprobs: 2, allowedTokenIds: [5, 6, 7, 8] },
];

/** What a scope runs: [groups of kinds that are generated together, tokens of a prompt by kind, tokens to generate, rounds]. */
const WORK = {
  // All in one batch, which graphs pad. The second time prompts come from the prefix cache, and steps are launches of graphs.
  full: { groups: [[0, 1, 2, 3, 4]], lengths: [1, 16, 17, 90, 300], maxTokens: 6, rounds: 2, eager: [true, false], engine: { maxNumBatchedTokens: 256, numKvBlocks: 200 } },
  // A prompt of several pages and tiles with one of a single token, then kind after kind: each group names what it does before it begins.
  small: { groups: [[0, 1], [2], [3], [4]], lengths: [70, 1, 17, 5, 20], maxTokens: 2, rounds: 1, eager: [true], engine: { maxNumBatchedTokens: 64, numKvBlocks: 20 } },
};

/** The example model, or one layer of its shapes with random weights: every kernel of a step runs once per step. */
function modelOf(scope, folder) {
  if (scope === 'full') return { model: MODEL };
  const config = { ...JSON.parse(fs.readFileSync(path.join(MODEL, 'config.json'), 'utf8')), num_hidden_layers: 1, vocab_size: 256 };
  const file = path.join(folder, 'config.json');
  fs.writeFileSync(file, JSON.stringify(config));
  return { model: file, loadFormat: 'dummy' };
}

async function runEngine(options, work, say) {
  const { LLM } = require(path.join(ROOT, 'dist', 'index.js'));
  say('loads');
  const llm = await LLM.create({ maxNumSeqs: 8, ...work.engine, ...options });
  const vocab = options.loadFormat === 'dummy' ? 250 : 2000;
  for (let round = 0; round < work.rounds; round += 1) {
    for (const group of work.groups) {
      say(`round ${round + 1}: ${group.map((kind) => `${work.lengths[kind]} tokens with ${JSON.stringify(KINDS[kind])}`).join('; ')}`);
      const prompts = group.map((i) => ({ promptTokenIds: Array.from({ length: work.lengths[i] }, (_, k) => 5 + ((k * k + 31 * i) % vocab)) }));
      const outputs = await llm.generate(prompts, group.map((kind) => ({ ...KINDS[kind], maxTokens: work.maxTokens, ignoreEos: true, detokenize: false })));
      if (outputs.some((output) => output.outputs[0].tokenIds.length !== work.maxTokens)) throw new Error('a request ended early');
    }
  }
  await llm.close();
}

/** What runs under the sanitizer: prompts of several lengths, decoding, sampling of every kind, the prefix cache. */
async function workload({ dtype, scope, device = 'cuda' }) {
  const begin = Date.now();
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'kvasir-sanitize-'));
  try {
    for (const enforceEager of WORK[scope].eager) {
      const say = (text) => process.stdout.write(`[${((Date.now() - begin) / 1000).toFixed(1)} s] ${dtype}, ${enforceEager ? 'without' : 'with'} graphs: ${text}\n`);
      await runEngine({ ...modelOf(scope, folder), device, dtype, enforceEager }, WORK[scope], say);
      say('ended well');
    }
  } finally {
    fs.rmSync(folder, { recursive: true });
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
      kernels: { type: 'string' }, launches: { type: 'string' }, scope: { type: 'string' }, sanitizer: { type: 'string' }, limit: { type: 'string', default: '200' }, workload: { type: 'string' },
    },
  });
  if (values.workload !== undefined) return workload(JSON.parse(values.workload));
  const [tools, dtypes, limit] = [list(values.tools, TOOLS, 'tools'), list(values.dtypes, DTYPES, 'dtypes'), Number(values.limit)];
  if (!(limit > 0)) throw new UserError(`--limit must be a positive number of seconds; received "${values.limit}".`);
  const launches = values.launches === undefined ? null : Number(values.launches);
  if (launches !== null && !(Number.isInteger(launches) && launches > 0)) throw new UserError(`--launches must be a whole number above 0; received "${values.launches}".`);
  if (values.scope !== undefined && !SCOPES.includes(values.scope)) throw new UserError(`--scope must be one of ${SCOPES.join(', ')}; received "${values.scope}".`);
  const options = { cublaslt: values.cublaslt, limit, scope: values.scope ?? null, kernels: values.kernels?.split(','), launches };
  if (!(await canTest())) return 0;
  const sanitizer = values.sanitizer ?? findSanitizer();
  const problems = [];
  for (const tool of tools) {
    for (const dtype of dtypes) {
      process.stdout.write(`${tool}, ${dtype}: runs for up to ${limit} s\n`);
      const problem = await runTool(sanitizer, tool, dtype, options);
      process.stdout.write(`${tool}, ${dtype}: ${problem ?? 'no errors'}\n`);
      if (problem !== null) problems.push(`${tool}, ${dtype}`);
    }
  }
  process.stdout.write(problems.length === 0 ? 'compute-sanitizer found nothing\n' : `compute-sanitizer: problems in ${problems.join('; ')}\n`);
  return problems.length === 0 ? 0 : 1;
}

module.exports = { runTool, verdict };

if (require.main === module) runMain(main);
