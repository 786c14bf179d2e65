import type { PositionLogprobs } from '../../lib/core/types';
import type { ResolvedSamplingParams } from '../../lib/sampling/params';
import { Sampler, type SampleResult } from '../../lib/sampling/sampler';
import { hasPenalties } from '../../lib/sampling/sampler-state';
import { Device, liveStorages } from '../../lib/tensor/device';
import { tensorTable } from '../../lib/tensor/table';
import type { Tensor } from '../../lib/tensor/tensor';
import { RequestTables } from '../../lib/worker/request-tables';
import { makeSamplingParams } from '../fixtures/vllm-config';

const VOCAB = 40;
const MAX_SEQS = 4;

let device: Device;
let sampler: Sampler;
let tables: RequestTables;

beforeEach(() => {
  device = Device.create('cpu', 1);
  tables = new RequestTables(device, MAX_SEQS, 1);
  sampler = new Sampler(device, MAX_SEQS, VOCAB, tables);
});

afterEach(async () => {
  sampler.dispose();
  tables.dispose();
  await device.close();
  expect(liveStorages().count).toBe(0);
  expect(tensorTable().liveRows).toBe(0);
});

/** Logits of a request: distinct, in no order; token `best` is the largest. */
function logitsOf(seed: number, best?: number): number[] {
  const row = Array.from({ length: VOCAB }, (_, i) => Math.fround(3 * Math.sin(seed * 12.9898 + i * 78.233)));
  if (best !== undefined) row[best] = 5;
  return row;
}

function logSoftmax(row: readonly number[]): number[] {
  const max = Math.max(...row);
  const sum = row.reduce((total, v) => total + Math.exp(v - max), 0);
  return row.map((v) => v - max - Math.log(sum));
}

interface Draw {
  readonly row: number;
  readonly logits: readonly number[];
  readonly position?: number;
  readonly numOutputTokens?: number;
}

/** A tensor [values.length] with these values; queued work may still read it when it is disposed. */
function ints(values: readonly number[]): Tensor {
  const tensor = device.empty([values.length], 'int32');
  tensor.write(Int32Array.from(values));
  return tensor;
}

/** Draws as a step does: with plain requests alone through draw(), else through sample(). `padding` rows follow. */
async function draw(...draws: readonly Draw[]): Promise<Pick<SampleResult, 'logprobs'> & { tokenIds: number[] }> {
  return drawPadded(0, draws);
}

async function drawPadded(padding: number, draws: readonly Draw[], general = false): Promise<Pick<SampleResult, 'logprobs'> & { tokenIds: number[] }> {
  tables.flush();
  const logits = device.empty([draws.length + padding, VOCAB], 'float32');
  logits.write(Float32Array.from(draws.flatMap((d) => d.logits)));
  const filler = new Array<number>(padding).fill(-1);
  const at = { rows: ints([...draws.map((d) => d.row), ...filler]), positions: ints([...draws.map((d) => d.position ?? 5), ...filler]) };
  const requests = draws.map(({ row, numOutputTokens = 0 }) => ({ row, numOutputTokens }));
  const plain = !general && (!sampler.hasSpecial || sampler.isPlain(requests));
  if (plain) sampler.draw(logits, at);
  const result = plain ? sampler.readDrawn(draws.length) : sampler.sample(logits, at, requests);
  for (const tensor of [logits, at.rows, at.positions]) tensor.disposeStorage();
  const { tokenIds, logprobs } = await result;
  return { tokenIds: Array.from(tokenIds), logprobs };
}

const add = (row: number, params: Partial<ResolvedSamplingParams> = {}, tokenIds: readonly number[] = [1, 2], numPromptTokens = tokenIds.length): void =>
  sampler.state.add(row, makeSamplingParams(params), tokenIds, numPromptTokens);

describe('Sampler', () => {
  it('greedy takes the largest logit, the lowest id among equals', async () => {
    add(0);
    add(2);
    const tie = new Array<number>(VOCAB).fill(0);
    tie[7] = tie[31] = 2;
    expect(await draw({ row: 2, logits: tie }, { row: 0, logits: logitsOf(1, 33) })).toEqual({ tokenIds: [7, 33], logprobs: null });
  });

  it('draws the same tokens in the short way as in the general one, with padding as without', async () => {
    for (const row of [0, 1, 2]) add(row, { temperature: 1.3, seed: 5 + row, topP: 0.9 });
    const draws = [2, 0, 1].map((row) => ({ row, logits: logitsOf(20 + row), position: 3 + row }));
    const expected = (await drawPadded(0, draws, true)).tokenIds;
    for (const [padding, general] of [[0, false], [1, false], [1, true]] as const) {
      sampler.lastTokens.write(new Int32Array(MAX_SEQS).fill(-7));
      expect((await drawPadded(padding, draws, general)).tokenIds).toEqual(expected);
      expect(Array.from((await sampler.lastTokens.read()) as Int32Array)).toEqual([expected[1], expected[2], expected[0], -7]);
    }
  });

  it('knows which requests need more than drawing, and for how long', () => {
    add(0, { temperature: 0.5, topK: 3, minP: 0.1 });
    expect(sampler.hasSpecial).toBe(false);
    const needs: [Partial<ResolvedSamplingParams>, number, boolean][] = [
      [{ logprobs: 0 }, 9, false],
      [{ presencePenalty: 0.1 }, 9, false],
      [{ allowedTokenIds: [3] }, 9, false],
      [{ logitBias: [[3, 1]] }, 9, false],
      [{ minTokens: 4, eosTokenIds: [2] }, 3, false],
      [{ minTokens: 4, eosTokenIds: [2] }, 4, true],
    ];
    for (const [params, numOutputTokens, plain] of needs) {
      add(1, params);
      expect([sampler.hasSpecial, sampler.isPlain([{ row: 0, numOutputTokens }, { row: 1, numOutputTokens }])]).toEqual([true, plain]);
      expect(sampler.isPlain([{ row: 0, numOutputTokens }])).toBe(true);
      tables.flush();
    }
    sampler.state.remove(1);
    expect(sampler.hasSpecial).toBe(false);
  });

  it('NaN, or no possible token, gives -1 for that request alone', async () => {
    for (const row of [0, 1, 2]) add(row);
    const nan = logitsOf(1);
    nan[3] = NaN;
    const none = new Array<number>(VOCAB).fill(-Infinity);
    expect((await draw({ row: 0, logits: nan }, { row: 1, logits: logitsOf(2, 9) }, { row: 2, logits: none })).tokenIds).toEqual([-1, 9, -1]);
  });

  it('a draw depends on seed and position, not on the batch or the row', async () => {
    const params = { temperature: 1.5, seed: 2 ** 40 + 7 };
    const at = async (row: number, others: number, position: number, seed = params.seed): Promise<number> => {
      add(row, { ...params, seed });
      for (let i = 0; i < others; i++) add((row + 1 + i) % MAX_SEQS, { temperature: 0.7, seed: 99 + i });
      const draws = [...Array.from({ length: others }, (_, i) => ({ row: (row + 1 + i) % MAX_SEQS, logits: logitsOf(50 + i) })), { row, logits: logitsOf(4), position }];
      return (await draw(...draws)).tokenIds.at(-1)!;
    };
    const positions = Array.from({ length: 24 }, (_, i) => i);
    const alone: number[] = [];
    for (const position of positions) alone.push(await at(0, 0, position));
    for (const position of positions) expect(await at(3, 3, position)).toBe(alone[position]);
    expect(new Set(alone).size).toBeGreaterThan(5);
    const high: number[] = [];
    for (const position of positions) high.push(await at(0, 0, position, 7)); // the same low half of the seed
    expect(high).not.toEqual(alone);
  });

  it('topK 1 is greedy at any temperature', async () => {
    add(0, { temperature: 5, topK: 1 });
    for (let position = 0; position < 10; position++) expect((await draw({ row: 0, logits: logitsOf(3, 20), position })).tokenIds).toEqual([20]);
  });
});

describe('logprobs', () => {
  function expectRow(row: PositionLogprobs | null, logits: readonly number[], token: number, k: number): void {
    const expected = logSoftmax(logits);
    const order = [...expected.keys()].sort((a, b) => expected[b]! - expected[a]! || a - b);
    expect(row!.tokenIds).toEqual([token, ...order.slice(0, k)]);
    row!.tokenIds.forEach((id, i) => expect(row!.logprobs[i]).toBeCloseTo(expected[id]!, 4));
    expect(row!.sampledRank).toBe(order.indexOf(token) + 1);
  }

  it('each request gets its own k; those that did not ask get none', async () => {
    const wanted = [3, null, 0, 5];
    wanted.forEach((logprobs, row) => add(row, { logprobs }));
    const rows = wanted.map((_, i) => logitsOf(10 + i, i + 4));
    const { tokenIds, logprobs } = await draw(...rows.map((logits, row) => ({ row, logits })));
    expect(tokenIds).toEqual([4, 5, 6, 7]);
    expect(logprobs![1]).toBeNull();
    for (const i of [0, 2, 3]) expectRow(logprobs![i]!, rows[i]!, tokenIds[i]!, wanted[i]!);
  });

  it.each<[string, Partial<ResolvedSamplingParams>]>([
    ['temperature', { temperature: 0.3, topK: 2 }],
    ['bias', { logitBias: [[6, 50]] }],
    ['penalties', { repetitionPenalty: 2, frequencyPenalty: 1 }],
    ['minimum length', { minTokens: 3, eosTokenIds: [12] }],
    ['allowed tokens', { allowedTokenIds: [6, 7] }],
  ])('are those of the raw logits, before %s', async (_name, params) => {
    add(0, { logprobs: 2, ...params }, [12, 3]);
    const logits = logitsOf(2, 12);
    const { tokenIds, logprobs } = await draw({ row: 0, logits });
    expectRow(logprobs![0]!, logits, tokenIds[0]!, 2);
  });

  it('of given tokens, at several rows', async () => {
    const rows = [logitsOf(1), logitsOf(2)];
    const logits = device.empty([2, VOCAB], 'float32');
    logits.write(Float32Array.from(rows.flat()));
    const result = await sampler.logprobsOf(logits, [9, 0], 4);
    [9, 0].forEach((token, i) => expectRow(result[i]!, rows[i]!, token, 4));
    const [only] = await sampler.logprobsOf(logits, [3, 3], 0);
    expectRow(only!, rows[0]!, 3, 0);
    logits.disposeStorage();
  });

  it('a failure in queued work rejects every wait, and nothing is left unhandled', async () => {
    const unhandled: unknown[] = [];
    const listen = (reason: unknown): void => void unhandled.push(reason);
    process.on('unhandledRejection', listen);
    add(0, { logprobs: 1 });
    add(1, { allowedTokenIds: [VOCAB + 5] }); // outside the vocabulary: fails when it runs
    await expect(draw({ row: 0, logits: logitsOf(1) }, { row: 1, logits: logitsOf(2) })).rejects.toMatchObject({ code: 'ERR_KVASIR_TENSOR' });
    await new Promise((resolve) => setTimeout(resolve, 20));
    process.off('unhandledRejection', listen);
    expect(unhandled).toEqual([]);
    sampler.state.remove(1);
    expect((await draw({ row: 0, logits: logitsOf(1, 8) })).tokenIds).toEqual([8]);
  });
});

describe('features', () => {
  it('minTokens keeps end tokens away until the output is that long', async () => {
    add(0, { minTokens: 2, eosTokenIds: [12], stopTokenIds: [13, 12] });
    const logits = logitsOf(1, 12);
    logits[13] = 4.9;
    const next = [...logits.keys()].filter((i) => i !== 12 && i !== 13).reduce((a, b) => (logits[b]! > logits[a]! ? b : a));
    const tokens = [];
    for (const numOutputTokens of [0, 1, 2]) tokens.push((await draw({ row: 0, logits, numOutputTokens })).tokenIds[0]);
    expect(tokens).toEqual([next, next, 12]);
  });

  it('allowedTokenIds and logitBias change their own request only', async () => {
    add(0, { allowedTokenIds: [3, 30] });
    add(1);
    add(2, { logitBias: [[8, 100], [9, -100]] });
    const logits = logitsOf(5, 9);
    const { tokenIds } = await draw({ row: 2, logits }, { row: 0, logits }, { row: 1, logits });
    expect(tokenIds).toEqual([8, logits[3]! > logits[30]! ? 3 : 30, 9]);
  });

  it('a bias does not open what is not allowed', async () => {
    add(0, { allowedTokenIds: [3], logitBias: [[8, 100]] });
    expect((await draw({ row: 0, logits: logitsOf(5, 9) })).tokenIds).toEqual([3]);
  });
});

describe('penalties', () => {
  const flat = (...best: readonly [number, number][]): number[] => {
    const row = new Array<number>(VOCAB).fill(0);
    for (const [id, value] of best) row[id] = value;
    return row;
  };
  /** Draws n tokens from the same logits. */
  async function tokens(row: number, logits: readonly number[], n: number): Promise<number[]> {
    const out: number[] = [];
    for (let i = 0; i < n; i++) out.push((await draw({ row, logits, numOutputTokens: i })).tokenIds[0]!);
    return out;
  }

  it('count the tokens that are drawn, in every step', async () => {
    add(0, { frequencyPenalty: 1 });
    expect(await tokens(0, flat([10, 2.5], [11, 2]), 5)).toEqual([10, 11, 10, 11, 10]);
  });

  it('presence counts once; repetition counts the prompt too', async () => {
    add(0, { presencePenalty: 1 });
    expect(await tokens(0, flat([10, 2.5], [11, 1.8]), 4)).toEqual([10, 11, 10, 10]);
    add(1, { repetitionPenalty: 2 }, [10]);
    expect(await tokens(1, flat([10, 2.5], [11, 2]), 1)).toEqual([11]);
  });

  it('a request that resumes has its output counted', async () => {
    add(0, { frequencyPenalty: 1 }, [10, 10, 10], 1);
    expect(await tokens(0, flat([10, 2.5], [11, 1]), 1)).toEqual([11]); // two of three were output
  });

  it('a row that is taken again knows nothing of the request before', async () => {
    add(0, { frequencyPenalty: 1 });
    await tokens(0, flat([10, 2.5], [11, 1]), 3);
    sampler.state.remove(0);
    add(0);
    expect(await tokens(0, flat([10, 2.5], [11, 2]), 2)).toEqual([10, 10]);
    add(0, { presencePenalty: 1 });
    expect(await tokens(0, flat([10, 2.5], [11, 1.8]), 2)).toEqual([10, 11]);
  });

  it('of one request leave the others of the batch alone', async () => {
    add(0, { frequencyPenalty: 2 });
    add(1);
    const logits = flat([10, 2.5], [11, 2]);
    for (const expected of [[10, 10], [11, 10]]) expect((await draw({ row: 0, logits }, { row: 1, logits })).tokenIds).toEqual(expected);
  });

  it('memory for counts is taken when the first request has penalties', () => {
    add(0);
    expect(sampler.state.counts).toBeNull();
    add(1, { presencePenalty: 0.5 });
    expect((sampler.state.counts as Tensor).shape).toEqual([MAX_SEQS, VOCAB]);
  });

  it.each([
    [{}, false],
    [{ presencePenalty: -1 }, true],
    [{ frequencyPenalty: 0.1 }, true],
    [{ repetitionPenalty: 1.1 }, true],
    [{ repetitionPenalty: 1, temperature: 2 }, false],
  ])('%j has penalties: %p', (params, expected) => {
    expect(hasPenalties(makeSamplingParams(params))).toBe(expected);
  });
});
