/** Every model in processes of its own that share it: a group of ranks as users start it. */
import * as fs from 'node:fs';
import * as path from 'node:path';
import type { DeviceType } from '../../lib/config/vllm';
import { hasShared } from '../fixtures/shared';
import { comparable, FIXTURE_MODELS, GOLDEN_MODELS, modelDir, readGolden } from '../models/golden-suite';
import { program, rankCommand, RankedProgram, type Launcher } from './ranks';

interface Generated {
  readonly name: string;
  readonly tokenIds: readonly (readonly number[])[];
  /** Of the prompts' tokens; null for the first. */
  readonly logprobs: readonly (readonly (number | null)[])[];
}

const MODELS: readonly string[] = [...(hasShared ? GOLDEN_MODELS : []), ...FIXTURE_MODELS];
const LIMIT_MS = 240_000;

function headsOf(name: string): number {
  const config = JSON.parse(fs.readFileSync(path.join(modelDir(name), 'config.json'), 'utf8')) as Record<string, number>;
  return config.num_attention_heads ?? config.n_head!;
}

type Results = ReadonlyMap<string, Generated>;

/** What every model generates on a group. */
async function generate({ launcher, size, device, enforceEager = false }: RankGroup, names: readonly string[]): Promise<Results> {
  const models = names.map((name) => {
    const { greedy } = readGolden(name);
    return { name, model: modelDir(name), prompts: greedy.map((row) => row.prompt_ids), maxTokens: Math.max(...greedy.map((row) => row.output_ids.length)) };
  });
  const engine = { device, dtype: 'float32', enforceEager, numThreads: 1, tensorParallelSize: size, numKvBlocks: 256, tensorParallelTimeout: 60 };
  const run = new RankedProgram(rankCommand(launcher, size, [program('rank-goldens.js'), JSON.stringify({ models, ...engine })]));
  const timer = setTimeout(() => run.cleanUp(), LIMIT_MS - 10_000);
  const end = await run.ended;
  clearTimeout(timer);
  if (end.code !== 0) process.stderr.write(end.stderr);
  const lines = end.stdout.split('\n').filter((line) => line.startsWith('{'));
  return new Map(lines.map((line) => JSON.parse(line) as Generated).map((generated) => [generated.name, generated]));
}

function largestDifference(a: Generated, b: Generated): number {
  return Math.max(...a.logprobs.flatMap((row, i) => row.map((value, k) => (value === null ? 0 : Math.abs(value - b.logprobs[i]![k]!)))));
}

/** A group of ranks and how it is started. */
export interface RankGroup {
  readonly launcher: Launcher;
  readonly size: number;
  readonly available: boolean;
  readonly device: DeviceType;
  /** Largest difference of a log probability to that of one rank. */
  readonly tolerance: number;
  /** Steps without CUDA graphs. */
  readonly enforceEager?: boolean;
}

/** What the others are compared with, by options. */
const oneRank = new Map<string, Promise<Results>>();

/** The tests of every model on one group of processes. */
export function rankGoldenTests(group: RankGroup): void {
  const { size, available, tolerance, device } = group;
  const names = MODELS.filter((name) => headsOf(name) % size === 0);
  let alone: Results;
  let ranks: Results;
  const when = available ? it : it.skip;

  beforeAll(async () => {
    if (!available) return;
    const single = { ...group, launcher: 'kvasir', size: 1 } as const;
    const key = JSON.stringify([device, group.enforceEager]);
    if (!oneRank.has(key)) oneRank.set(key, generate(single, MODELS));
    alone = await oneRank.get(key)!;
    ranks = await generate(group, names);
  }, 2 * LIMIT_MS);

  when.each(names)(`%s: the tokens of Hugging Face transformers, logprobs within ${tolerance} of one rank`, (name) => {
    const generated = ranks.get(name)!;
    readGolden(name).greedy.forEach((row, i) => {
      const expected = comparable(row, device === 'cpu');
      expect(generated.tokenIds[i]!.slice(0, expected.length)).toEqual(expected);
    });
    expect(largestDifference(generated, alone.get(name)!)).toBeLessThan(tolerance);
  });
}
