/** What a rank reads of a checkpoint: its shards, and what every rank has. */
import * as fs from 'node:fs';
import * as path from 'node:path';
import { resolveVllmConfig } from '../../lib/config/resolve';
import { openCheckpoint, type CheckpointEntry } from '../../lib/loader/checkpoint';
import { buildModel, disposeModel, loadModel, resolveQuantization } from '../../lib/loader/model-loader';
import { Device, liveStorages } from '../../lib/tensor/device';
import { describeShared, itShared, sharedPath } from '../fixtures/shared';

type OnProgress = (loaded: number, total: number) => void;

/** Loads one rank's part of a model; bytes that were read. */
async function load(dir: string, tensorParallelSize: number, tpRank: number, onProgress?: OnProgress): Promise<number> {
  const base = await resolveVllmConfig({ model: dir, device: 'cpu', numThreads: 1 });
  const config = { ...base, parallel: { tensorParallelSize, tpRank } };
  const device = Device.create('cpu', 1);
  try {
    const model = buildModel(await resolveQuantization(config));
    try {
      const { bytesRead } = await loadModel(model, config, device, { onProgress });
      return bytesRead;
    } finally {
      disposeModel(model);
      for (const layer of config.staticForwardContext.values() as Iterable<{ kvCache?: { dispose(): void } }>) layer.kvCache!.dispose();
    }
  } finally {
    await device.close();
    expect(liveStorages().count).toBe(0);
  }
}

async function entriesOf(dir: string): Promise<CheckpointEntry[]> {
  const checkpoint = await openCheckpoint(dir);
  await checkpoint.close();
  return [...checkpoint.tensors.values()];
}

const sum = (numbers: readonly number[]): number => numbers.reduce((a, b) => a + b, 0);

/** Tensors that every rank has whole: norms, positions, routers, biases behind a sum over ranks, and what is said of all inputs. */
const REPLICATED = /norm|\.ln_|embed_positions|wpe\.|\.gate\.weight|(\.c_proj|out_proj|fc2|dense|dense_4h_to_h)\.bias|project_(in|out)|(q|k|v|gate|up)_proj\.(g_idx|weight_scale)$/;
/** The one KV head of this model is on both ranks. */
const ONE_KV_HEAD = /[kv]_proj/;

interface Case {
  readonly name: string;
  readonly replicated?: RegExp;
  /** Share of the checkpoint that a rank of two may read. */
  readonly bound: number;
}

const CASES: readonly Case[] = [
  { name: 'babyllama-tok105', bound: 0.505 },
  { name: 'kvasir-tales-5m', bound: 0.505 },
  { name: 'stories260K-bf16-sharded', bound: 0.505 },
  { name: 'babyllama-tok105-awq-int4-g32', bound: 0.515 },
  { name: 'babyllama-tok105-gptq-int4-g32', bound: 0.525 },
  { name: 'babyllama-tok105-fp8', bound: 0.51 },
  { name: 'tiny-random/gemma2', bound: 0.505 },
  { name: 'tiny-random/gpt-neox', bound: 0.505 },
  { name: 'tiny-random/gpt2', bound: 0.58 },
  { name: 'tiny-random/mixtral', bound: 0.505 },
  { name: 'tiny-random/opt', bound: 0.58 },
  { name: 'tiny-random/phi3', bound: 0.505 },
  { name: 'tiny-random/qwen3-moe', bound: 0.505 },
  { name: 'tiny-random/qwen3-hd128-bf16', replicated: ONE_KV_HEAD, bound: 0.56 },
];

describeShared('a rank of two reads half of a checkpoint, besides what both have', () => {
  it.each(CASES)('$name', async ({ name, replicated, bound }) => {
    const dir = sharedPath('models', name);
    const entries = await entriesOf(dir);
    const total = sum(entries.map((entry) => entry.byteLength));
    const isWhole = (entry: CheckpointEntry): boolean => REPLICATED.test(entry.name) || replicated?.test(entry.name) === true;
    const ofBoth = sum(entries.filter(isWhole).map((entry) => entry.byteLength));
    expect(await load(dir, 1, 0)).toBe(total);
    const ranks = [await load(dir, 2, 0), await load(dir, 2, 1)];
    for (const bytes of ranks) expect(bytes).toBeLessThanOrEqual(bound * total);
    expect(sum(ranks)).toBeGreaterThanOrEqual(total);
    // A padded vocabulary is cut unevenly, and group scales are on both ranks where the cut goes through a group.
    expect(Math.abs(sum(ranks) - (total + ofBoth))).toBeLessThanOrEqual(0.01 * total);
  });
});

itShared('one rank of four reads a quarter', async () => {
  const dir = sharedPath('models/babyllama-tok105');
  const total = sum((await entriesOf(dir)).map((entry) => entry.byteLength));
  for (const rank of [0, 1, 2, 3]) expect(await load(dir, 4, rank)).toBeLessThanOrEqual(0.27 * total);
});

itShared('progress of a rank only grows, and ends with the whole checkpoint', async () => {
  const dir = sharedPath('models/kvasir-tales-5m');
  const total = sum((await entriesOf(dir)).map((entry) => entry.byteLength));
  const reports: number[] = [];
  await load(dir, 2, 1, (loaded, of) => {
    expect(of).toBe(total);
    reports.push(loaded);
  });
  expect(reports.length).toBeGreaterThan(5);
  expect(reports).toEqual([...reports].sort((a, b) => a - b));
  expect(reports.at(-1)).toBe(total);
});

const IO = '/proc/self/io';
const model = path.resolve(__dirname, '../../examples/models/kvasir-tales-5m');

/** Bytes that this process has read, by the kernel's account. */
const charactersRead = (): number => Number(/^rchar: (\d+)/m.exec(fs.readFileSync(IO, 'utf8'))![1]);

(fs.existsSync(IO) ? it : it.skip)('the operating system counts the same bytes', async () => {
  await load(model, 2, 0); // modules that are read on first use
  const before = charactersRead();
  const bytes = await load(model, 2, 0);
  const counted = charactersRead() - before;
  expect(bytes).toBeGreaterThan(4_000_000);
  expect(counted).toBeGreaterThanOrEqual(bytes);
  expect(counted).toBeLessThan(1.05 * bytes); // config.json and headers are read too
});
