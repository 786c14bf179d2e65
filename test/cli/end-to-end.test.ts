import { spawn, spawnSync, type SpawnSyncReturns } from 'node:child_process';
import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import golden from '../fixtures/kvasir-tales-5m-golden.json';

const root = path.resolve(__dirname, '../..');
const main = path.join(root, 'dist/cli/main.js');
const model = path.join(root, 'examples/models/kvasir-tales-5m');
const isBuilt = fs.existsSync(main) && fs.existsSync(path.join(root, 'build/Release/kvasir.node'));
const describeBuilt = isBuilt ? describe : describe.skip;

function kvasir(args: string[], input = ''): SpawnSyncReturns<string> {
  return spawnSync(process.execPath, [main, ...args], { encoding: 'utf8', input, timeout: 60000 });
}

interface Line {
  index: number;
  prompt: string | null;
  promptTokenIds: number[];
  outputs: { text: string; tokenIds: number[]; finishReason: string; logprobs: { tokenId: number; logprob: number }[][] | null }[];
}

const linesOf = (stdout: string): Line[] => stdout.trimEnd().split('\n').map((line) => JSON.parse(line) as Line);

describeBuilt('the command, built, with the example model', () => {
  let dir: string;
  beforeAll(() => {
    dir = fs.mkdtempSync(path.join(os.tmpdir(), 'kvasir-e2e-'));
  });
  afterAll(() => fs.rmSync(dir, { recursive: true }));

  test('generate --json tells the golden stories, in the order of the input', () => {
    const file = path.join(dir, 'in.jsonl');
    // Every other prompt as token ids. 12 tokens: before any step in which two tokens are nearly as likely.
    const count = 12;
    fs.writeFileSync(file, golden.greedy.map((story, i) => JSON.stringify(i % 2 === 0 ? { prompt: story.prompt } : { promptTokenIds: story.prompt_ids })).join('\n'));
    const result = kvasir(['generate', model, '--input', file, '--json', '--temperature', '0', '--top-p', '1', '--max-tokens', String(count), '--logprobs', '2', '--dtype', 'float32']);
    expect(result.stderr).toBe('');
    expect(result.status).toBe(0);
    const lines = linesOf(result.stdout);
    expect(lines.map((line) => line.index)).toEqual(golden.greedy.map((_, i) => i));
    expect(lines.map((line) => line.promptTokenIds)).toEqual(golden.greedy.map((story) => story.prompt_ids));
    expect(lines.map((line) => line.outputs[0]!.tokenIds)).toEqual(golden.greedy.map((story) => story.output_ids.slice(0, count)));
    for (const { outputs: [completion] } of lines) {
      expect(completion!.finishReason).toBe('length');
      expect(completion!.logprobs!.map((position) => position[0]!.tokenId)).toEqual(completion!.tokenIds);
    }
  });

  test('generate streams one prompt, and a seed gives the same text twice', () => {
    const tell = (): string => kvasir(['generate', model, '--prompt', 'Once upon a time', '--max-tokens', '20', '--seed', '5']).stdout;
    const text = tell();
    expect(text.length).toBeGreaterThan(20);
    expect(tell()).toBe(text);
  });

  test('chat answers a piped message with the golden reply', () => {
    const [expected] = golden.chat;
    const result = kvasir(['chat', model, '--temperature', '0', '--top-p', '1', '--max-tokens', '12', '--dtype', 'float32'], `${expected!.user}\n`);
    expect(result.status).toBe(0);
    expect(result.stdout.trim().length).toBeGreaterThan(10);
    expect(expected!.text.startsWith(result.stdout.trim())).toBe(true);
  });

  test.each([
    ['latency', ['--batch-size', '2', '--num-iters', '1', '--num-iters-warmup', '0'], 'prefillTokensPerSecond'],
    ['throughput', ['--num-prompts', '3'], 'outputTokensPerSecond'],
  ])('bench %s needs no more than a config.json', (kind, flags, figure) => {
    const args = ['bench', kind, path.join(model, 'config.json'), '--load-format', 'dummy', '--input-len', '8', '--output-len', '4', '--json', ...flags];
    const result = kvasir(args);
    expect(result.stderr).toBe('');
    const report = JSON.parse(result.stdout) as Record<string, number>;
    expect(report[figure]).toBeGreaterThan(0);
    if (kind === 'latency') {
      // Other work on the machine can make one token as slow as four: there is no time of decoding then, and no rate.
      const { prefillSeconds, totalSeconds, decodeSeconds, decodeTokensPerSecond } = report;
      expect(decodeSeconds).toBe(Math.max(0, totalSeconds! - prefillSeconds!));
      expect(decodeTokensPerSecond).toBe(decodeSeconds! > 0 ? (2 * 3) / decodeSeconds! : null);
    }
    expect(report.peakRssBytes).toBeGreaterThan(1e6);
    expect(report.nativeBytes).toBeGreaterThan(1e6);
  });

  test('bench-startup.js measures from the start of the process to the first token', () => {
    const script = path.join(root, 'scripts/bench-startup.js');
    const result = spawnSync(process.execPath, [script, model, '--device', 'cpu', '--runs', '1'], { encoding: 'utf8', timeout: 60000 });
    expect(result.stderr).toBe('');
    const row = JSON.parse(result.stdout) as Record<string, number>;
    expect(row).toMatchObject({ benchmark: 'startup', device: 'cpu', run: 1, bytes: fs.statSync(path.join(model, 'model.safetensors')).size });
    const parts = ['nodeSeconds', 'importSeconds', 'loadSeconds', 'firstTokenSeconds'].map((name) => row[name]!);
    for (const seconds of parts) expect(seconds).toBeGreaterThan(0);
    expect(row.totalSeconds).toBeCloseTo(parts.reduce((a, b) => a + b, 0), 9);
    expect(row.weightsSeconds).toBeLessThanOrEqual(row.loadSeconds!);
    expect(row.gigabytesPerSecond).toBeCloseTo(row.bytes! / row.loadSeconds! / 1e9, 9);
  });

  test('a model that does not exist is one line and 1', () => {
    const result = kvasir(['generate', path.join(dir, 'none'), '--prompt', 'x']);
    expect(result.status).toBe(1);
    expect(result.stderr).toMatch(/^error: [^\n]+ \(ERR_KVASIR_MODEL_NOT_FOUND\)\n$/);
    expect(result.stdout).toBe('');
  });

  test('Ctrl-C ends a long answer with 130 and no noise', async () => {
    const child = spawn(process.execPath, [main, 'generate', model, '--prompt', 'Once', '--max-tokens', '1000', '--ignore-eos']);
    let stderr = '';
    child.stderr.on('data', (chunk) => (stderr += String(chunk)));
    child.stdout.once('data', () => child.kill('SIGINT'));
    const code = await new Promise((resolve) => child.on('close', resolve));
    expect(stderr).toBe('');
    expect(code).toBe(130);
  });

  test('a reader that goes away is no error', () => {
    if (process.platform === 'win32') return;
    const command = `"${process.execPath}" "${main}" generate --help | head -1; echo \${PIPESTATUS[0]}`;
    const result = spawnSync('bash', ['-c', command], { encoding: 'utf8' });
    expect(result.stdout).toMatch(/^Usage: .*\n0\n$/);
  });
});

describeBuilt('the examples', () => {
  test.each([
    ['story.js', /^Once upon a time/, /\d+ tokens\/s\n$/],
    ['batch.mjs', /^The little dog.*\[length\]/s, /^$/],
    ['stream-abort.js', /The old man.*\[\d+ tokens\].*stopped: /s, /^$/],
  ])('%s runs', (file, stdout, stderr) => {
    const result = spawnSync(process.execPath, [path.join(root, 'examples', file)], { encoding: 'utf8', timeout: 60000 });
    expect(result.stderr).toMatch(stderr);
    expect(result.stdout).toMatch(stdout);
    expect(result.status).toBe(0);
  });
});
