/** What deploy/ holds is run as it stands, as far as one machine allows: what it stands on, besides Open MPI, is imitated. */
import { spawn, spawnSync } from 'node:child_process';
import * as fs from 'node:fs';
import * as net from 'node:net';
import * as os from 'node:os';
import * as path from 'node:path';
import { hasGloo, hasMpirun } from './ranks';

const ROOT = path.resolve(__dirname, '../..');
const MODEL = path.join(ROOT, 'examples/models/kvasir-tales-5m');
const CLI = path.join(ROOT, 'dist/cli/main.js');
const GENERATE = ['generate', MODEL, '--prompt', 'Once upon a time', '--max-tokens', '24', '--temperature', '0', '--device', 'cpu', '--dtype', 'float32', '--num-threads', '1'];
const LIMIT_MS = 60_000;

let folder: string;
beforeEach(() => (folder = fs.mkdtempSync(path.join(os.tmpdir(), 'kvasir-deploy-'))));
afterEach(() => fs.rmSync(folder, { recursive: true }));

interface Ended {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

function run(command: string, args: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'], timeout: LIMIT_MS, killSignal: 'SIGKILL' });
    const text = { stdout: '', stderr: '' };
    child.stdout.on('data', (chunk: Buffer) => void (text.stdout += chunk.toString()));
    child.stderr.on('data', (chunk: Buffer) => void (text.stderr += chunk.toString()));
    child.on('error', reject);
    child.on('close', (code) => resolve({ code, ...text }));
  });
}

/** A program on PATH. */
function standIn(name: string, script: string): void {
  fs.writeFileSync(path.join(folder, name), `#!/usr/bin/env bash\n${script}\n`, { mode: 0o755 });
}

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = net.createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address() as net.AddressInfo;
      server.close(() => resolve(port));
    });
  });
}

/** What one rank says; nothing is printed on standard error either. */
function expectedText(): string {
  const { status, stdout, stderr } = spawnSync(process.execPath, [CLI, ...GENERATE], { encoding: 'utf8', timeout: LIMIT_MS });
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  return stdout;
}

(hasGloo && hasMpirun ? it : it.skip)('mpirun.sh runs a command as two ranks', async () => {
  const ended = await run('bash', [path.join(ROOT, 'deploy/mpirun.sh'), '2', ...GENERATE]);
  expect(ended).toEqual({ code: 0, stdout: expectedText(), stderr: '' });
}, 2 * LIMIT_MS);

// srun: one task after another gets its number, as on one node; the first that fails is the step's exit code.
const SRUN = `
shift # --kill-on-bad-exit=1
export SLURM_STEP_NODELIST=localhost SLURM_STEP_NUM_TASKS=$SLURM_NTASKS SLURM_STEP_ID=0
for ((i = 0; i < SLURM_NTASKS; i++)); do SLURM_PROCID=$i SLURM_LOCALID=$i "$@" & pids[i]=$!; done
code=0
for pid in "\${pids[@]}"; do wait "$pid" || code=$?; done
exit $code`;

(hasGloo ? it : it.skip)('slurm.sbatch runs a command in a step of two tasks, with a secret that it makes', async () => {
  standIn('srun', SRUN);
  standIn('npx', `shift\nexec "${process.execPath}" "${CLI}" "$@"`);
  const secret = path.join(folder, 'secret');
  const env = { PATH: `${folder}:${process.env.PATH}`, SLURM_NTASKS: '2', SLURM_JOB_ID: String(process.pid), SECRET_FILE: secret };
  const ended = await run('bash', [path.join(ROOT, 'deploy/slurm.sbatch'), ...GENERATE], env);
  expect(ended).toEqual({ code: 0, stdout: expectedText(), stderr: '' });
  expect(fs.statSync(secret).mode & 0o077).toBe(0);
}, 2 * LIMIT_MS);

(hasGloo ? it : it.skip)('the program in leader-worker-set.yaml runs in two pods', async () => {
  const manifest = fs.readFileSync(path.join(ROOT, 'deploy/leader-worker-set.yaml'), 'utf8');
  const [, block] = /^ {2}program\.js: \|\n((?: {4}.*\n)+)/m.exec(manifest)!;
  const secret = path.join(folder, 'secret');
  fs.writeFileSync(secret, /secret: (\S{16,})/.exec(manifest)![1]!);
  const places = { "'kvasir'": path.join(ROOT, 'dist/index.js'), "'/model'": MODEL, "'/etc/kvasir/secret'": secret };
  let source = block!;
  for (const [inPod, here] of Object.entries(places)) {
    expect(source).toContain(inPod);
    source = source.replace(inPod, JSON.stringify(here));
  }
  const file = path.join(folder, 'program.js');
  fs.writeFileSync(file, source);
  const port = String(await freePort());
  const pod = (index: number) => run(process.execPath, [file], { LWS_WORKER_INDEX: String(index), LWS_GROUP_SIZE: '2', LWS_LEADER_ADDRESS: '127.0.0.1', MASTER_PORT: port });
  const [leader, worker] = await Promise.all([pod(0), pod(1)]);
  expect(worker).toEqual({ code: 0, stdout: '', stderr: '' });
  expect(leader).toMatchObject({ code: 0, stderr: '' });
  expect(leader!.stdout.length).toBeGreaterThan(50);
}, 2 * LIMIT_MS);
