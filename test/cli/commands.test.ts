import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import { runCli } from '../../lib/cli/run';
import { captureIo, type CapturedIo } from './capture';
import { calls, resetCalls } from './fake-llm';

jest.mock('../../lib/index', () => require('./fake-llm'));

async function kvasir(argv: string[], input = ''): Promise<{ code: number; io: CapturedIo }> {
  const io = captureIo(input);
  const code = await runCli(argv, io);
  await new Promise((resolve) => setImmediate(resolve));
  return { code, io };
}

let dir: string;
beforeAll(() => {
  dir = fs.mkdtempSync(path.join(os.tmpdir(), 'kvasir-cli-'));
});
afterAll(() => fs.rmSync(dir, { recursive: true }));
beforeEach(resetCalls);

function inputFile(...lines: string[]): string {
  const file = path.join(dir, 'in.jsonl');
  fs.writeFileSync(file, lines.join('\n'));
  return file;
}

describe('kvasir generate', () => {
  test('streams the text of one prompt', async () => {
    const { code, io } = await kvasir(['generate', 'm', '--prompt', 'Hi', '--max-tokens', '4', '--max-num-seqs', '2']);
    expect(io.err()).toBe('');
    expect(code).toBe(0);
    expect(io.out()).toBe('once upon\n');
    expect(calls.created).toEqual([{ model: 'm', maxNumSeqs: 2, workerImports: [] }]);
    expect(calls.params).toEqual([{ temperature: 0.8, maxTokens: 4, outputKind: 'delta' }]);
    expect(calls.closed).toBe(1);
  });

  test('--json prints one object for each request, in order, and nothing else', async () => {
    const file = inputFile('{"prompt":"a"}', '{"promptTokenIds":[1],"params":{"temperature":0}}');
    const { code, io } = await kvasir(['generate', 'm', '--input', file, '--json', '--seed', '3']);
    expect(code).toBe(0);
    const lines = io.out().trimEnd().split('\n').map((line) => JSON.parse(line) as unknown);
    expect(lines).toEqual([
      {
        index: 0, prompt: 'a', promptTokenIds: [1], numCachedTokens: 0,
        outputs: [{ index: 0, text: 'text 0', tokenIds: [2, 3], finishReason: 'length', stopReason: null, cumulativeLogprob: null, logprobs: null }],
      },
      expect.objectContaining({ index: 1, prompt: null }),
    ]);
    expect(calls.params).toEqual([
      { temperature: 0.8, maxTokens: 256, seed: 3, outputKind: 'final' },
      { temperature: 0, maxTokens: 256, seed: 3, outputKind: 'final' },
    ]);
  });

  test('prints the texts of several prompts', async () => {
    const { io } = await kvasir(['generate', 'm', '--input', inputFile('{"prompt":"a"}', '{"prompt":"b"}')]);
    expect(io.out()).toBe('text 0\ntext 1\n');
  });

  test('a bad line is told before a model is loaded', async () => {
    const { code, io } = await kvasir(['generate', 'm', '--input', inputFile('{"prompt":"a"}', '{')]);
    expect(code).toBe(1);
    expect(io.err()).toMatch(/^error: .*in\.jsonl:2: expected .* \(ERR_KVASIR_CLI\)\n$/);
    expect(calls.created).toEqual([]);
  });

  test('an error is one line with its code, and with --verbose a stack', async () => {
    const plain = await kvasir(['generate', 'missing', '--prompt', 'x']);
    expect(plain.code).toBe(1);
    expect(plain.io.err()).toBe('error: missing: expected a directory, received nothing (ERR_KVASIR_MODEL_NOT_FOUND)\n');
    expect(plain.io.out()).toBe('');
    const verbose = await kvasir(['generate', 'missing', '--prompt', 'x', '--verbose']);
    expect(verbose.io.err()).toMatch(/\n\s+at /);
  });

  test('a request that failed by itself is told once all are printed', async () => {
    const { code, io } = await kvasir(['generate', 'm', '--json', '--input', inputFile('{"prompt":"nan"}', '{"prompt":"b"}')]);
    expect(code).toBe(1);
    expect(io.out().trimEnd().split('\n')).toHaveLength(2);
    expect(io.err()).toBe('error: request 0: NaN at position 3 (ERR_KVASIR_NAN_LOGITS)\n');
    expect(calls.closed).toBe(1);
  });

  test.each([
    [['generate', 'm']],
    [['generate', 'm', '--prompt', 'a', '--input', 'b']],
    [['generate']],
    [['generate', 'm', '--prompt', 'a', '--max-tokens', 'many']],
    [['generate', 'm', '--prompt', 'a', '--no-such-flag']],
    [['no-such-command']],
  ])('%j is a wrong command line: 2', async (argv) => {
    const { code, io } = await kvasir(argv);
    expect(code).toBe(2);
    expect(io.err()).toMatch(/^error: /);
    expect(io.out()).toBe('');
    expect(calls.created).toEqual([]);
  });
});

describe('interrupting', () => {
  test('Ctrl-C closes the engine and gives 130', async () => {
    const running = kvasir(['generate', 'm', '--prompt', 'a']);
    process.emit('SIGINT', 'SIGINT');
    const { code, io } = await running;
    expect(code).toBe(130);
    expect(io.err()).toBe('');
    expect(calls.closed).toBe(calls.created.length);
    expect(process.listenerCount('SIGINT')).toBe(0);
  });
});

describe('kvasir chat', () => {
  test('answers one message a line and remembers', async () => {
    const { code, io } = await kvasir(['chat', 'm', '--system', 'Be kind.'], 'hello\n\nmore\n/reset\nagain\n/exit\nnot read\n');
    expect(io.err()).toBe('');
    expect(code).toBe(0);
    expect(io.out()).toBe('reply 2\nreply 4\nreply 2\n');
    expect(calls.chats[1]).toEqual([
      { role: 'system', content: 'Be kind.' },
      { role: 'user', content: 'hello' },
      { role: 'assistant', content: 'reply 2' },
      { role: 'user', content: 'more' },
    ]);
    expect(calls.closed).toBe(1);
  });

  test('ends with its input', async () => {
    const { code, io } = await kvasir(['chat', 'm'], 'hello');
    expect(code).toBe(0);
    expect(io.out()).toBe('reply 1\n');
  });
});

describe('help', () => {
  test('kvasir --help lists the commands and --version prints a version', async () => {
    const help = await kvasir(['--help']);
    expect(help.code).toBe(0);
    for (const command of ['generate', 'chat', 'bench', 'doctor', 'build']) expect(help.io.out()).toContain(`  ${command}`);
    const version = await kvasir(['--version']);
    expect(version.code).toBe(0);
    expect(version.io.out()).toMatch(/^\d+\.\d+\.\d+\n$/);
  });

  test('kvasir generate --help groups the options of the engine', async () => {
    const { io } = await kvasir(['generate', '--help']);
    expect(io.out()).toContain('KV cache options:');
    expect(io.out()).toContain('--num-kv-blocks <n>');
    expect(io.out()).toContain('--no-enable-prefix-caching');
  });
});
