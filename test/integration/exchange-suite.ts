/** Ranks that exchange the largest of their logits draw the tokens that whole logits give, and do so in the steps that allow it. */
import { Communicator } from '../../lib/distributed/communicator';
import { LLM, type SamplingParams } from '../../lib/index';
import { liveStorages } from '../../lib/tensor/device';
import { ranks, STEPS, type Device } from './tensor-parallel-suite';
import { randomPrompt } from './workload';

interface Batch {
  readonly name: string;
  readonly params: readonly SamplingParams[];
  /** What its steps gather: this many logits of each rank, or all. */
  readonly gathered: readonly (number | 'all')[];
  /** Prompts of up to this length; short ones are all in the first step, so that every step draws for all requests. */
  readonly longest?: number;
}

const GREEDY: SamplingParams = { temperature: 0 };
const TOP_5: SamplingParams = { topK: 5, seed: 5 };
const TOP_50: SamplingParams = { topK: 50, topP: 0.9, minP: 0.02, temperature: 0.9, seed: 50 };
const TOP_64: SamplingParams = { topK: 64, topP: 0.95, temperature: 1.5, seed: 64 };
const ANY: SamplingParams = { topP: 0.9, seed: 9 };

const BATCHES: readonly Batch[] = [
  { name: 'greedy', params: [GREEDY, GREEDY, GREEDY], gathered: [1] },
  { name: 'nearly greedy', params: [{ temperature: 1e-6 }, GREEDY], gathered: [1] },
  { name: 'top-k', params: [TOP_5, TOP_50, TOP_64, { ...TOP_50, seed: 51 }], gathered: [64] },
  { name: 'greedy and top-k', params: [GREEDY, TOP_5, GREEDY, TOP_50], gathered: [64] },
  { name: 'one without top-k', params: [GREEDY, TOP_5, ANY], gathered: ['all'] },
  { name: 'one with a larger top-k', params: [TOP_5, { topK: 65, seed: 1 }], gathered: ['all'] },
  { name: 'one with logprobs', params: [GREEDY, { ...GREEDY, logprobs: 2 }], gathered: ['all'] },
  { name: 'one with penalties', params: [TOP_5, { ...TOP_5, presencePenalty: 0.5 }], gathered: ['all'] },
  { name: 'one with a bias', params: [TOP_5, { ...GREEDY, logitBias: { 7: 3 } }], gathered: ['all'] },
  { name: 'a minimum of tokens, and then none', params: [GREEDY, { ...GREEDY, minTokens: 3, stopTokenIds: [1] }], gathered: [1, 'all'] },
  { name: 'logprobs of a prompt', params: [GREEDY, { ...GREEDY, promptLogprobs: 1 }], gathered: [1, 'all'] },
  { name: 'long prompts', params: [GREEDY, GREEDY, ANY, TOP_5, TOP_50, TOP_64], gathered: [1, 64, 'all'], longest: 90 },
];

async function generate(llm: LLM, { params, longest }: Batch, extra: SamplingParams): Promise<(readonly number[])[]> {
  const vocabSize = llm.config.model.vocabSize;
  const prompts = params.map((_, i) => ({ promptTokenIds: randomPrompt(i + 1, longest ? 5 + ((i * 41) % longest) : 3 + i, vocabSize) }));
  const outputs = await llm.generate(prompts, params.map((p, i) => ({ ...p, ...extra, ignoreEos: true, maxTokens: longest ? 6 + (i % 5) : 6 })));
  return outputs.map(({ outputs: [output] }) => output!.tokenIds);
}

/** Notes what the gathers of logits are of, while `work` runs. */
async function noteGathers<T>(width: number, work: () => Promise<T>): Promise<[T, Set<number | 'all'>]> {
  const seen = new Set<number | 'all'>();
  const { allGather } = Communicator.prototype;
  const spy = jest.spyOn(Communicator.prototype, 'allGather').mockImplementation(function (this: Communicator, x) {
    // Of a part of the vocabulary that has fewer than 64 tokens, all are exchanged.
    const pairs = x.size(1) / 2;
    seen.add(x.dtype === 'float32' && x.size(1) === width ? 'all' : pairs === Math.min(64, width) ? 64 : pairs);
    return allGather.call(this, x);
  });
  try {
    return [await work(), seen];
  } finally {
    spy.mockRestore();
  }
}

/**
 * Every batch: what it gathers, and that its tokens are those of whole logits and, where sums are near enough, of one rank.
 * @param enforceEager false on CUDA: steps are graphs, whose gathers cannot be noted
 */
export async function exchangesCandidates(model: string, sizes: readonly number[], device: Device, enforceEager = true): Promise<void> {
  const args = { model, dtype: 'float32', device, enforceEager, ...STEPS } as const;
  const one: (readonly number[])[][] = [];
  await withLlm(LLM.create(args), async (llm) => {
    const [, seen] = await noteGathers(0, async () => {
      for (const batch of BATCHES) one.push(await generate(llm, batch, {}));
    });
    expect(seen.size).toBe(0);
  });
  for (const size of sizes) {
    await withLlm(LLM.create(args, ranks(size)), async (llm) => {
      const width = (Math.ceil(llm.config.model.vocabSize / 64) * 64) / size;
      for (const [i, batch] of BATCHES.entries()) {
        const [tokens, gathered] = await noteGathers(width, () => generate(llm, batch, {}));
        if (enforceEager) expect([batch.name, Array.from(gathered).sort()]).toEqual([batch.name, Array.from(batch.gathered).sort()]);
        const [whole, all] = await noteGathers(width, () => generate(llm, batch, { logprobs: 0 }));
        if (enforceEager) expect(Array.from(all)).toEqual(['all']);
        if (batch.params.every(({ logprobs }) => logprobs === undefined)) expect([batch.name, tokens]).toEqual([batch.name, whole]);
        if (device === 'cpu') expect([batch.name, tokens]).toEqual([batch.name, one[i]]);
      }
    });
  }
}

async function withLlm(creation: Promise<LLM>, work: (llm: LLM) => Promise<void>): Promise<void> {
  const llm = await creation;
  try {
    await work(llm);
  } finally {
    await llm.close();
  }
  expect(liveStorages().count).toBe(0);
}
