import { execFileSync, spawnSync } from 'node:child_process';
import * as fs from 'node:fs';
import * as path from 'node:path';
import { AsyncLLM, LLM, ModelRegistry } from 'kvasir';
import golden from '../fixtures/kvasir-tales-5m-golden.json';

const root = path.resolve(__dirname, '../..');
const example = path.join(root, 'examples/custom-model');
const builtIn = path.join(root, 'examples/models/kvasir-tales-5m');
const checkpoint = path.join(example, 'dist/checkpoint');
const isBuilt = fs.existsSync(path.join(root, 'dist/index.mjs')) && fs.existsSync(path.join(root, 'build/Release/kvasir.node'));
const describeBuilt = isBuilt ? describe : describe.skip;

/** Lines of the ```sh blocks of the example's page, in order. */
const commands = [...fs.readFileSync(path.join(example, 'README.md'), 'utf8').matchAll(/```sh\n([\s\S]*?)```/g)].flatMap(([, block]) => block!.trim().split('\n'));
const [compile, makeCheckpoint, ...programs] = commands;

const ARGS = { dtype: 'float32', device: 'cpu' } as const;
const PARAMS = { temperature: 0, topP: 1, maxTokens: 40 } as const;
const prompts = golden.greedy.map((row) => ({ promptTokenIds: row.prompt_ids }));

function shell(command: string): string {
  // The node that runs the tests, whatever stands on PATH; npx has nothing to download here.
  const result = spawnSync(command.replace(/^node /, `"${process.execPath}" `).replace(/^npx tsc /, `"${process.execPath}" node_modules/typescript/bin/tsc `), {
    cwd: root, encoding: 'utf8', shell: true, timeout: 100_000,
  });
  if (result.status !== 0) throw new Error(`${command}: ${result.stderr}${result.stdout}`);
  return result.stdout;
}

async function tokensOf(model: string): Promise<readonly number[][]> {
  const llm = await LLM.create({ model, ...ARGS });
  try {
    return (await llm.generate(prompts, PARAMS)).map((output) => [...output.outputs[0]!.tokenIds]);
  } finally {
    await llm.close();
  }
}

describeBuilt('examples/custom-model', () => {
  let expected: readonly number[][];
  let story: string;

  beforeAll(async () => {
    shell(compile!);
    shell(makeCheckpoint!);
    expected = await tokensOf(builtIn);
    const llm = await LLM.create({ model: builtIn });
    story = (await llm.generate('Once upon a time', PARAMS))[0]!.outputs[0]!.text;
    await llm.close();
  }, 200_000);

  test('what the built-in Llama gives is what is compared with: the golden tokens', () => {
    expected.forEach((tokens, i) => expect(tokens.slice(0, 12)).toEqual(golden.greedy[i]!.output_ids.slice(0, 12)));
    expect(story.length).toBeGreaterThan(40);
  });

  test('nothing in the tree loads its checkpoint', async () => {
    await expect(tokensOf(checkpoint)).rejects.toMatchObject({ code: 'ERR_KVASIR_UNSUPPORTED_MODEL', message: expect.stringContaining('MyModelForCausalLM') });
  });

  test.each([
    ['registered by a string, loaded when a checkpoint asks for it', 'register-lazy.js'],
    ['registered as a class', 'register.js'],
  ])('in process, %s: the tokens of the built-in Llama', async (_how, file) => {
    const warn = jest.spyOn(process, 'emitWarning').mockImplementation(() => undefined);
    try {
      require(path.join(example, 'dist', file));
    } finally {
      warn.mockRestore();
    }
    expect(ModelRegistry.getSupportedArchs()).toContain('MyModelForCausalLM');
    expect(await tokensOf(checkpoint)).toEqual(expected);
  });

  test('in the thread of AsyncLLM, by workerImports', async () => {
    const llm = await AsyncLLM.create({ model: checkpoint, workerImports: [path.join(example, 'dist/register.js')], ...ARGS });
    try {
      const tokens = prompts.map(async (prompt) => {
        let last: readonly number[] = [];
        for await (const output of llm.generate(prompt, { ...PARAMS, outputKind: 'final' })) last = output.outputs[0]!.tokenIds;
        return last;
      });
      expect(await Promise.all(tokens)).toEqual(expected);
    } finally {
      await llm.close();
    }
  });

  test('the thread knows nothing of models that are registered elsewhere', async () => {
    await expect(AsyncLLM.create({ model: checkpoint, ...ARGS })).rejects.toMatchObject({ code: 'ERR_KVASIR_UNSUPPORTED_MODEL' });
  });

  test('a module of workerImports may export register(); one that fails is an error with its name', async () => {
    const dir = fs.mkdtempSync(path.join(root, 'build', 'imports-'));
    const write = (name: string, text: string): string => {
      fs.writeFileSync(path.join(dir, name), text);
      return path.join(dir, name);
    };
    try {
      const register = write('register.js', `exports.register = async () => { await null; require(${JSON.stringify(path.join(example, 'dist/register.js'))}); };`);
      await (await AsyncLLM.create({ model: checkpoint, workerImports: [register], ...ARGS })).close();
      const broken = write('broken.mjs', 'throw new Error("no such luck");');
      await expect(AsyncLLM.create({ model: checkpoint, workerImports: [broken], ...ARGS })).rejects.toMatchObject({
        code: 'ERR_KVASIR_REGISTRY',
        message: expect.stringMatching(/broken\.mjs.*no such luck/),
      });
    } finally {
      fs.rmSync(dir, { recursive: true });
    }
  });

  test('the page has the commands of both programs, and of --plugin with both modules', () => {
    expect(compile).toBe('npx tsc -p examples/custom-model');
    expect(programs.map((command) => /[\w-]+\.js(?= --prompt|$)/.exec(command)?.[0])).toEqual(['run.js', 'run-async.js', 'register.js', 'register-lazy.js']);
  });

  test.each(programs)('%s tells the story of the built-in Llama', (command) => {
    const text = shell(command).trimEnd();
    expect(text.replace(/^Once upon a time/, '')).toBe(story.trimEnd());
  });

  test('--plugin with --json gives the tokens', () => {
    const args = ['generate', checkpoint, '--plugin', path.join(example, 'dist/register.js'), '--prompt', golden.greedy[0]!.prompt, '--json', '--dtype', 'float32', '--temperature', '0', '--top-p', '1', '--max-tokens', '40'];
    const line = execFileSync(process.execPath, [path.join(root, 'dist/cli/main.js'), ...args], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] });
    expect((JSON.parse(line) as { outputs: { tokenIds: number[] }[] }).outputs[0]!.tokenIds).toEqual(expected[0]);
  });
});

describeBuilt('--plugin', () => {
  const generate = (...plugins: string[]) =>
    spawnSync(process.execPath, [path.join(root, 'dist/cli/main.js'), 'generate', builtIn, '--prompt', 'Once', '--max-tokens', '1', ...plugins.flatMap((file) => ['--plugin', file])], { encoding: 'utf8', cwd: root });
  let dir: string;
  const write = (name: string, text: string): string => {
    const file = path.join(dir, name);
    fs.writeFileSync(file, text);
    return file;
  };

  beforeAll(() => void (dir = fs.mkdtempSync(path.join(root, 'build', 'plugin-'))));
  afterAll(() => fs.rmSync(dir, { recursive: true }));

  test.each([
    ['a CommonJS module with a function register', 'a.js', 'exports.register = async () => { process.stderr.write("registered\\n"); };'],
    ['an ES module with a function register', 'b.mjs', 'export function register() { process.stderr.write("registered\\n"); }'],
    ['an ES module that waits for something', 'd.mjs', 'await null; export const register = () => process.stderr.write("registered\\n");'],
    ['an ES module that registers when it is loaded, with the package found by name', 'c.mjs', 'import { ModelRegistry } from "kvasir"; ModelRegistry.registerModel("X", class {}); process.stderr.write("registered\\n");'],
  ])('takes %s', (_what, name, text) => {
    const result = generate(write(name, text));
    expect(result.stderr).toBe('registered\n');
    expect(result.status).toBe(0);
  });

  test('takes several, in order', () => {
    const result = generate(write('one.js', 'process.stderr.write("one ")'), write('two.js', 'process.stderr.write("two")'));
    expect(result).toMatchObject({ status: 0, stderr: 'one two' });
  });

  test.each([
    ['one that does not exist', () => './no-such-plugin.js'],
    ['one that throws', () => write('broken.js', 'throw new Error("no such luck")')],
    ['one whose register fails', () => write('rejects.js', 'exports.register = () => Promise.reject(new Error("no such luck"))')],
  ])('%s is one line with its name, and exit code 1', (_what, make) => {
    const file = make();
    const result = generate(file);
    expect(result.status).toBe(1);
    expect(result.stderr.split('\n')).toEqual([expect.stringMatching(/^error: --plugin .*ERR_KVASIR_REGISTRY\)$/), '']);
    expect(result.stderr).toContain(file);
  });
});
