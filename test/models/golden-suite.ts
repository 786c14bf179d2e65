import * as fs from 'node:fs';
import * as path from 'node:path';
import type { ComputeDType, DeviceType } from '../../lib/config/vllm';
import { LLM } from '../../lib/index';
import { hasShared, sharedPath } from '../fixtures/shared';
import { ForwardHarness, relativeMaxError, type Golden } from './forward-harness';

/** Models whose architectures are in the registry, with reference outputs of Hugging Face transformers in float32. */
export const GOLDEN_MODELS = [
  'stories260K',
  'stories260K-bf16-sharded',
  'babyllama-tok105',
  'babyllama-tok105-awq-int4-g32',
  'babyllama-tok105-fp8',
  'babyllama-tok105-gptq-int4-g32',
  'kvasir-tales-5m',
  'tiny-random/llama-rope-llama3',
  'tiny-random/llama-hd64-bf16',
  'tiny-random/gemma2',
  'tiny-random/gpt-neox',
  'tiny-random/gpt2',
  'tiny-random/mistral-sliding-window',
  'tiny-random/mixtral',
  'tiny-random/opt',
  'tiny-random/phi3',
  'tiny-random/qwen2',
  'tiny-random/qwen3',
  'tiny-random/qwen3-hd128-bf16',
  'tiny-random/qwen3-moe',
] as const;

/** Models of test/fixtures/models, which every clone has (scripts/make-golden.py). */
export const FIXTURE_MODELS = ['bloom-tiny', 'bloom-normed-residual', 'gpt-neox-sequential', 'gpt2-inverse-scale', 'opt-post-norm'] as const;

/** Where a model of these lists is. */
export function modelDir(name: string): string {
  const isFixture = (FIXTURE_MODELS as readonly string[]).includes(name);
  return isFixture ? path.join(__dirname, '../fixtures/models', name) : sharedPath('models', name);
}

/** Without the models there is nothing to read: the suite is skipped by name. */
export function readGolden(name: string): Golden {
  const file = path.join(modelDir(name), 'golden.json');
  return hasShared || fs.existsSync(file) ? (JSON.parse(fs.readFileSync(file, 'utf8')) as Golden) : { greedy: [] };
}

/** Where the best two logits of the reference are never nearer than this, float32 arithmetic on the CPU gives all of its tokens. */
const FLOAT32_TIE = 1e-3;

/** Tokens that must agree: up to the first step where the best two logits of the reference nearly tie. */
export function comparable(row: Golden['greedy'][number], isExact = false): number[] {
  if (isExact && row.min_gap > FLOAT32_TIE) return row.output_ids;
  const end = row.steps_with_gap_below_0_05[0] ?? row.output_ids.length;
  return row.output_ids.slice(0, end);
}

async function withModel(name: string, device: DeviceType, dtype: ComputeDType, work: (llm: LLM) => Promise<void>): Promise<void> {
  const llm = await LLM.create({ model: modelDir(name), dtype, device });
  try {
    await work(llm);
  } finally {
    await llm.close();
  }
}

/** The tests of one model in float32 on one device. */
export function goldenFloat32(name: string, device: DeviceType): void {
  const golden = readGolden(name);

  it('greedy tokens', () => greedyTokens(name, device, 'float32'));

  (golden.last_logits ? it : it.skip)('logits', async () => {
    const harness = await ForwardHarness.load(modelDir(name), 'float32', device);
    try {
      for (const { prompt_ids, logits } of golden.last_logits!) {
        const all = await harness.logits(prompt_ids);
        expect(relativeMaxError(all.at(-1)!, logits)).toBeLessThan(2e-4);
      }
    } finally {
      await harness.close();
    }
  });

  (golden.prompt_logprobs ? it : it.skip)('prompt logprobs', async () => {
    const { max } = await promptLogprobErrors(name, device, 'float32');
    expect(max).toBeLessThan(1e-3);
  });
}

export const TRAINED_MODELS = [
  'stories260K',
  'stories260K-bf16-sharded',
  'babyllama-tok105',
  'babyllama-tok105-awq-int4-g32',
  'babyllama-tok105-gptq-int4-g32',
  'kvasir-tales-5m',
] as const;

/**
 * With 4-bit weights the CPU rounds activations to int8, which decides ties that are wider than those the reference lists; prompt
 * logprobs leave out the wide ones too.
 */
const INT4_MODELS: ReadonlySet<string> = new Set(['babyllama-tok105-awq-int4-g32', 'babyllama-tok105-gptq-int4-g32']);

/**
 * The tests of one trained model in bfloat16 on one device, against the float32 reference: mean and maximal error of prompt
 * logprobs, and the best token wherever the reference's two best are not a near tie for bfloat16.
 */
export function goldenBfloat16(name: string, device: DeviceType): void {
  (readGolden(name).prompt_logprobs ? it : it.skip)('prompt logprobs', async () => {
    const { mean, max, sameBest } = await promptLogprobErrors(name, device, 'bfloat16');
    expect(mean).toBeLessThan(0.02);
    expect(max).toBeLessThan(0.3);
    expect(sameBest).toBeGreaterThanOrEqual(0.99);
  });

  if (device === 'cpu' && INT4_MODELS.has(name)) return;
  it('greedy tokens up to the first near tie', () => greedyTokens(name, device, 'bfloat16'));
}

async function greedyTokens(name: string, device: DeviceType, dtype: ComputeDType): Promise<void> {
  const { greedy } = readGolden(name);
  await withModel(name, device, dtype, async (llm) => {
    const maxTokens = Math.max(...greedy.map((r) => r.output_ids.length));
    const outputs = await llm.generate(greedy.map((r) => ({ promptTokenIds: r.prompt_ids })), { temperature: 0, maxTokens, ignoreEos: true });
    greedy.forEach((row, i) => {
      const expected = comparable(row, device === 'cpu' && dtype === 'float32');
      expect(outputs[i]!.outputs[0]!.tokenIds.slice(0, expected.length)).toEqual(expected);
    });
  });
}

/** Logits about 10 apart in bfloat16 are 0.06 apart: below this gap another rounding may rightly prefer the other token. */
const NEAR_TIE = 0.1;

/**
 * How far the log probabilities of the reference's prompts are off: mean and maximum, and the share of equal best tokens
 * where the reference has no near tie.
 */
export async function promptLogprobErrors(name: string, device: DeviceType, dtype: ComputeDType): Promise<{ mean: number; max: number; sameBest: number }> {
  const errors: number[] = [];
  let same = 0;
  let compared = 0;
  await withModel(name, device, dtype, async (llm) => {
    for (const row of readGolden(name).prompt_logprobs!) {
      const promptTokenIds = row.ids.slice(0, llm.config.model.maxModelLen - 1);
      const [output] = await llm.generate([{ promptTokenIds }], { promptLogprobs: 5, maxTokens: 1, temperature: 0 });
      expect(output!.promptLogprobs).toHaveLength(promptTokenIds.length);
      output!.promptLogprobs!.forEach((entries, i) => {
        if (i === 0) return expect(entries).toBeNull();
        expect(entries![0]!.tokenId).toBe(row.ids[i]);
        errors.push(Math.abs(entries![0]!.logprob - row.logprobs[i]!));
        const [first, second] = row.top5_logprobs[i]!;
        if (first! - second! < NEAR_TIE) return;
        const best = entries!.reduce((a, b) => (b.logprob > a.logprob ? b : a));
        compared += 1;
        if (best.tokenId === row.top5_ids[i]![0]) same += 1;
      });
    }
  });
  return { mean: errors.reduce((a, b) => a + b, 0) / errors.length, max: errors.reduce((a, b) => Math.max(a, b), 0), sameBest: same / compared };
}
