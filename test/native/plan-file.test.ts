import { execFile, spawnSync } from 'node:child_process';
import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import { promisify } from 'node:util';

const { findToolchain } = require('../../scripts/toolchain.js') as { findToolchain(): { compiler: string | null } };
const NATIVE = path.join(__dirname, '..', '..', 'native');
const SOURCES = ['bench/plan_file_check.cc', 'cuda/gemm/plan_file.cc'].map((file) => path.join(NATIVE, file));
const { compiler } = findToolchain();
// The prebuilt addon is also tested where there is no compiler, or no native source beside the tests.
const possible = compiler !== null && SOURCES.every((file) => fs.existsSync(file));

interface Outcome {
  readonly atStart: number;
  readonly size: number;
  readonly found: number;
  readonly wrong: number;
  readonly path: string;
  readonly problem: string;
}

(possible ? describe : describe.skip)('the file of GEMM plans (compiled without CUDA)', () => {
  let root: string;
  let program: string;
  let folder: string;
  let count = 0;

  beforeAll(() => {
    root = fs.mkdtempSync(path.join(os.tmpdir(), 'kvasir-plans-'));
    program = path.join(root, 'check');
    const built = spawnSync(compiler!, ['-std=c++20', '-Wall', '-Wextra', '-I', NATIVE, ...SOURCES, '-o', program], { encoding: 'utf8' });
    expect(built.stderr).toBe('');
  }, 120_000);
  afterAll(() => fs.rmSync(root, { recursive: true, force: true }));
  beforeEach(() => {
    folder = path.join(root, String(count++), 'kvasir', 'gemm');
  });

  const run = async (...args: (string | number)[]): Promise<Outcome> =>
    JSON.parse((await promisify(execFile)(program, args.map(String), { timeout: 60_000 })).stdout) as Outcome;
  const add = (first: number, last: number, library = 130_100): Promise<Outcome> => run(folder, library, 'add', first, last);
  const read = (last: number, library = 130_100): Promise<Outcome> => run(folder, library, 'read', last);

  it('gives back what another process wrote, bit for bit', async () => {
    expect(await read(5)).toMatchObject({ size: 0, problem: '' });
    expect(await add(1, 3)).toMatchObject({ atStart: 0, size: 3, problem: '' });
    expect(await add(3, 4)).toMatchObject({ atStart: 3, size: 4, problem: '' });
    expect(await read(5)).toMatchObject({ atStart: 4, found: 4, wrong: 0, problem: '' });
  });

  it('keeps libraries apart', async () => {
    const { path: file } = await add(1, 2);
    expect(await read(5, 130_200)).toMatchObject({ size: 0, problem: '' });
    expect((await add(1, 1, 130_200)).path).not.toBe(file);
    expect(await read(5)).toMatchObject({ found: 2 });
    expect(path.basename(file)).toMatch(/^[\w.-]+$/);
  });

  it('does not use the plans of another environment under its own name, and replaces them', async () => {
    const own = (await add(1, 2)).path;
    const other = (await add(5, 5, 130_200)).path;
    fs.copyFileSync(other, own);
    expect(await read(5)).toMatchObject({ size: 0, problem: expect.stringContaining(own) });
    expect(await add(3, 3)).toMatchObject({ size: 1, problem: '' });
    expect(await read(5)).toMatchObject({ found: 1, wrong: 0, problem: '' });
  });

  it('ignores what is no file of plans', async () => {
    const { path: file } = await add(1, 1);
    for (const content of ['', '\n', 'x', '{"plans":[]}\n', '\0'.repeat(5000), Buffer.from([0xff, 0xfe, 0x0a, 0x80])]) {
      fs.writeFileSync(file, content);
      expect(await read(3)).toMatchObject({ size: 0, wrong: 0 });
    }
    fs.truncateSync(file, 65 * 2 ** 20);
    expect(await read(3)).toMatchObject({ size: 0, problem: expect.stringContaining('is not a file of plans') });
  });

  it('says why it cannot read or write, and goes on', async () => {
    const { path: file } = await add(1, 1);
    fs.rmSync(file);
    fs.mkdirSync(file);
    expect(await read(3)).toMatchObject({ size: 0, problem: expect.stringContaining('is not a file of plans') });
    expect(await add(1, 3)).toMatchObject({ size: 3, found: 3, problem: expect.stringContaining('cannot be replaced') });
    fs.rmdirSync(file);
    expect(spawnSync('mkfifo', [file]).status).toBe(0);
    expect(await read(3)).toMatchObject({ size: 0, problem: expect.stringContaining('is not a file of plans') });
    folder = path.join(program, 'gemm'); // below a file
    expect(await add(1, 3)).toMatchObject({ size: 3, problem: expect.stringContaining('cannot be made') });
  });

  it('loses nothing and leaves nothing behind when processes write at once', async () => {
    const outcomes = await Promise.all([0, 1, 2, 3].map((i) => add(i * 40 + 1, i * 40 + 40)));
    expect(outcomes.map((o) => o.problem)).toEqual(['', '', '', '']);
    const after = await read(160);
    expect(after).toMatchObject({ found: 160, wrong: 0 });
    const name = path.basename(after.path);
    expect(fs.readdirSync(folder).sort()).toEqual([name, `${name}.lock`]);
  }, 60_000);

  it('never takes a damaged plan for a good one', async () => {
    const outcome = (await run('damage')) as unknown as Record<string, number | boolean>;
    expect(outcome).toMatchObject({ same: true, invented: 0 });
    expect(outcome.texts).toBeGreaterThan(5000);
    expect(outcome.kept).toBeGreaterThan(10_000);
    expect(outcome.refused).toBeGreaterThan(400);
  });
});
