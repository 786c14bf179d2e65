import type { PositionLogprobs, SchedulerOutput } from '../../lib/core/types';
import { InputBatch } from '../../lib/worker/input-batch';
import { PromptLogprobs } from '../../lib/worker/prompt-logprobs';
import { makeSamplingParams } from '../fixtures/vllm-config';

interface Asked {
  readonly rows: readonly number[];
  readonly targets: readonly number[];
  readonly topK: number;
}

/** Requests of one batch with tokens 100.. and 200.., and what was asked of the model for a step. */
async function ask(parts: readonly { tokens: number; prompt: number; computed: number; scheduled: number; topK: number | null }[], maxLogitRows = 100) {
  const batch = new InputBatch(8, 16);
  const scheduled = parts.map(({ computed, scheduled: n }, i) => ({ requestId: `r${i}`, numComputedTokens: computed, numScheduledTokens: n, newBlockIds: [] }));
  parts.forEach(({ tokens, prompt, topK }, i) =>
    batch.add({
      requestId: `r${i}`,
      tokenIds: Array.from({ length: tokens }, (_, k) => 100 * (i + 1) + k),
      numPromptTokens: prompt,
      samplingParams: makeSamplingParams({ promptLogprobs: topK }),
    }),
  );
  const step: SchedulerOutput = { newRequests: [], removedRequestIds: [], scheduled, totalNumScheduledTokens: scheduled.reduce((n, s) => n + s.numScheduledTokens, 0) };
  const asked: Asked[] = [];
  const result = await new PromptLogprobs(maxLogitRows).queue(step, batch.statesOf(scheduled), async (rows, targets, topK) => {
    asked.push({ rows, targets, topK });
    return targets.map((t): PositionLogprobs => ({ tokenIds: [t], logprobs: [-1], sampledRank: 1 }));
  });
  return { asked, ids: result && Object.fromEntries([...result].map(([id, rows]) => [id, rows.map((r) => r.tokenIds[0])])) };
}

describe('PromptLogprobs', () => {
  it('asks for the next prompt token at every prompt position but the last', async () => {
    const { asked, ids } = await ask([{ tokens: 4, prompt: 4, computed: 0, scheduled: 4, topK: 2 }]);
    expect(asked).toEqual([{ rows: [0, 1, 2], targets: [101, 102, 103], topK: 2 }]);
    expect(ids).toEqual({ r0: [101, 102, 103] });
  });

  it('chunks meet without gap or overlap: the last position of a chunk asks for the first token of the next', async () => {
    const first = await ask([{ tokens: 6, prompt: 6, computed: 0, scheduled: 4, topK: 0 }]);
    const second = await ask([{ tokens: 6, prompt: 6, computed: 4, scheduled: 2, topK: 0 }]);
    expect([...first.ids!.r0!, ...second.ids!.r0!]).toEqual([101, 102, 103, 104, 105]);
  });

  it('rows count the tokens of every request before, whether it asked or not', async () => {
    const { asked, ids } = await ask([
      { tokens: 5, prompt: 5, computed: 0, scheduled: 5, topK: null },
      { tokens: 9, prompt: 3, computed: 8, scheduled: 1, topK: 4 }, // decoding
      { tokens: 3, prompt: 3, computed: 0, scheduled: 3, topK: 1 },
    ]);
    expect(asked).toEqual([{ rows: [6, 7], targets: [301, 302], topK: 1 }]);
    expect(ids).toEqual({ r2: [301, 302] });
  });

  it('a request that resumes asks for its prompt, not for its output', async () => {
    const { ids } = await ask([{ tokens: 7, prompt: 4, computed: 0, scheduled: 7, topK: 1 }]);
    expect(ids).toEqual({ r0: [101, 102, 103] });
  });

  it('a prompt of one token has none', async () => {
    expect(await ask([{ tokens: 1, prompt: 1, computed: 0, scheduled: 1, topK: 1 }])).toEqual({ asked: [], ids: null });
  });

  it('long prompts go in pieces that fit the logits', async () => {
    const { asked, ids } = await ask([{ tokens: 8, prompt: 8, computed: 0, scheduled: 8, topK: 1 }], 3);
    expect(asked.map((a) => a.rows)).toEqual([[0, 1, 2], [3, 4, 5], [6]]);
    expect(ids!.r0).toEqual([101, 102, 103, 104, 105, 106, 107]);
  });
});
