import * as fs from 'node:fs';
import * as path from 'node:path';
import { hasShared } from '../fixtures/shared';
import { comparable, FIXTURE_MODELS, GOLDEN_MODELS, modelDir, readGolden } from '../models/golden-suite';
import { hasGloo, hasMpirun, program, rankCommand, RankedProgram } from './ranks';

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

/** What every model generates as a group of this size, started by this launcher. */
async function generate(launcher: 'kvasir' | 'mpirun', size: number, names: readonly string[]): Promise<ReadonlyMap<string, Generated>> {
  const models = names.map((name) => {
    const { greedy } = readGolden(name);
    return { name, model: modelDir(name), prompts: greedy.map((row) => row.prompt_ids), maxTokens: Math.max(...greedy.map((row) => row.output_ids.length)) };
  });
  const options = { models, device: 'cpu', dtype: 'float32', numThreads: 1, tensorParallelSize: size, numKvBlocks: 256, tensorParallelTimeout: 60 };
  const run = new RankedProgram(rankCommand(launcher, size, [program('rank-goldens.js'), JSON.stringify(options)]));
  const timer = setTimeout(() => run.cleanUp(), LIMIT_MS - 10_000);
  const end = await run.ended;
  clearTimeout(timer);
  if (end.code !== 0) process.stderr.write(end.stderr);
  const lines = end.stdout.split('\n').filter((line) => line.startsWith('{'));
  return new Map(lines.map((line) => JSON.parse(line) as Generated).map((generated) => [generated.name, generated]));
}

/** float32: sums are taken in another order, and nothing else differs. */
const TOLERANCE = 1e-4;

function largestDifference(a: Generated, b: Generated): number {
  return Math.max(...a.logprobs.flatMap((row, i) => row.map((value, k) => (value === null ? 0 : Math.abs(value - b.logprobs[i]![k]!)))));
}

/** What the others are compared with. */
let oneRank: Promise<ReadonlyMap<string, Generated>> | null = null;

describe.each([
  ['two ranks that rank 0 started', 'kvasir', 2, hasGloo],
  ['two ranks under mpirun', 'mpirun', 2, hasGloo && hasMpirun],
  ['four ranks that rank 0 started', 'kvasir', 4, hasGloo],
] as const)('%s', (_title, launcher, size, available) => {
  const names = MODELS.filter((name) => headsOf(name) % size === 0);
  let alone: ReadonlyMap<string, Generated>;
  let ranks: ReadonlyMap<string, Generated>;
  const when = available ? it : it.skip;

  beforeAll(async () => {
    if (!available) return;
    alone = await (oneRank ??= generate('kvasir', 1, MODELS));
    ranks = await generate(launcher, size, names);
  }, 2 * LIMIT_MS);

  when.each(names)('%s: the tokens of Hugging Face transformers, logprobs within 1e-4 of one rank', (name) => {
    const generated = ranks.get(name)!;
    readGolden(name).greedy.forEach((row, i) => {
      const expected = comparable(row, true);
      expect(generated.tokenIds[i]!.slice(0, expected.length)).toEqual(expected);
    });
    expect(largestDifference(generated, alone.get(name)!)).toBeLessThan(TOLERANCE);
  });
});
