import * as path from 'node:path';
import { LLM } from '../../lib/index';
import { describeShared, readSharedJson, sharedPath } from '../fixtures/shared';
import { ForwardHarness, relativeMaxError, type Golden } from './forward-harness';

/** Models whose architectures are in the registry, with reference outputs of Hugging Face transformers in float32. */
const MODELS = [
  'stories260K',
  'stories260K-bf16-sharded',
  'babyllama-tok105',
  'kvasir-tales-5m',
  'tiny-random/llama-rope-llama3',
  'tiny-random/llama-hd64-bf16',
] as const;

/** Tokens that must agree: up to the first step where the best two logits of the reference nearly tie. */
function comparable(row: Golden['greedy'][number]): number[] {
  const end = row.steps_with_gap_below_0_05[0] ?? row.output_ids.length;
  return row.output_ids.slice(0, end);
}

describeShared.each(MODELS)('%s equals Hugging Face transformers (float32)', (name) => {
  const golden = readGolden(name);

  it('greedy tokens', async () => {
    const rows = golden.greedy;
    const llm = await LLM.create({ model: sharedPath('models', name), dtype: 'float32', device: 'cpu' });
    try {
      const maxTokens = Math.max(...rows.map((r) => r.output_ids.length));
      const outputs = await llm.generate(rows.map((r) => ({ promptTokenIds: r.prompt_ids })), { temperature: 0, maxTokens, ignoreEos: true });
      rows.forEach((row, i) => {
        const expected = comparable(row);
        expect(outputs[i]!.outputs[0]!.tokenIds.slice(0, expected.length)).toEqual(expected);
      });
    } finally {
      await llm.close();
    }
  });

  (golden.last_logits ? it : it.skip)('logits', async () => {
    const harness = await ForwardHarness.load(sharedPath('models', name), 'float32');
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
    const llm = await LLM.create({ model: sharedPath('models', name), dtype: 'float32', device: 'cpu' });
    try {
      for (const row of golden.prompt_logprobs!) {
        const [output] = await llm.generate([{ promptTokenIds: row.ids.slice(0, llm.config.model.maxModelLen - 1) }], { promptLogprobs: 5, maxTokens: 1, temperature: 0 });
        output!.promptLogprobs!.forEach((entries, i) => {
          if (i === 0) return expect(entries).toBeNull();
          expect(entries![0]!.tokenId).toBe(row.ids[i]);
          expect(Math.abs(entries![0]!.logprob - row.logprobs[i]!)).toBeLessThan(1e-3);
        });
      }
    } finally {
      await llm.close();
    }
  });
});

function readGolden(name: string): Golden {
  try {
    return readSharedJson<Golden>(path.join('models', name, 'golden.json'));
  } catch {
    return { greedy: [] }; // the suite is skipped by name when the models are not there
  }
}
