import fc from 'fast-check';
import type { NewRequestData, SchedulerOutput, ScheduledRequest } from '../../lib/core/types';
import { InputBatch } from '../../lib/worker/input-batch';
import { INPUT_DTYPES, StepInputs, type InputName } from '../../lib/worker/step-inputs';
import { expectCode } from '../fixtures/expect-error';
import { makeSamplingParams } from '../fixtures/vllm-config';

const BLOCK = 4;

function request(requestId: string, tokenIds: number[], numPromptTokens = tokenIds.length): NewRequestData {
  return { requestId, tokenIds, numPromptTokens, samplingParams: makeSamplingParams() };
}

function step(...scheduled: ScheduledRequest[]): SchedulerOutput {
  return { newRequests: [], scheduled, totalNumScheduledTokens: scheduled.reduce((n, s) => n + s.numScheduledTokens, 0), removedRequestIds: [] };
}

const share = (requestId: string, numComputedTokens: number, numScheduledTokens: number): ScheduledRequest => ({ requestId, numComputedTokens, numScheduledTokens, newBlockIds: [] });

type Values = Partial<Record<InputName, number[] | bigint[]>>;

/** The inputs of a step, by name. The words held something else before. */
function build(batch: InputBatch, { scheduled, ...rest }: SchedulerOutput, paddedSize = 0): { values: Values; drawing: readonly number[] } {
  const inputs = new StepInputs(100, 10, 0);
  inputs.words.fill(0x5a5a5a5a);
  inputs.reset(Math.max(rest.totalNumScheduledTokens, paddedSize), Math.max(scheduled.length, paddedSize), 0);
  const drawing = batch.buildInputs({ scheduled, ...rest }, batch.statesOf(scheduled), inputs);
  const values: Values = {};
  for (const name of Object.keys(INPUT_DTYPES) as InputName[]) {
    const size = inputs.sizeOf(name);
    if (INPUT_DTYPES[name] === 'int64') values[name] = Array.from(new BigInt64Array(inputs.words.buffer, 4 * inputs.at[name], size));
    else values[name] = Array.from(inputs.words.subarray(inputs.at[name], inputs.at[name] + size));
  }
  return { values, drawing };
}

describe('InputBatch rows', () => {
  it('are stable while a request lives, and are taken again when it left', () => {
    const batch = new InputBatch(3, BLOCK);
    const rows = ['a', 'b', 'c'].map((id) => batch.add(request(id, [1])).row);
    expect(rows).toEqual([0, 1, 2]);
    expect(batch.remove('b')).toBe(1);
    expect(batch.remove('b')).toBeNull();
    expect(batch.add(request('d', [1])).row).toBe(1);
    expect(['a', 'd', 'c'].map((id) => batch.get(id).row)).toEqual([0, 1, 2]);
  });

  it('a resumed request starts anew, with its output so far and no blocks', () => {
    const batch = new InputBatch(1, BLOCK);
    batch.add(request('a', [5, 6])).blockIds.push(3);
    const resumed = batch.add(request('a', [5, 6, 7], 2));
    expect(resumed).toMatchObject({ row: 0, tokenIds: [5, 6, 7], numPromptTokens: 2, blockIds: [] });
    expect(batch.get('a')).toBe(resumed);
  });

  it('a step is given the requests of now, whatever the step before was given', async () => {
    const batch = new InputBatch(3, BLOCK);
    const [a, b] = ['a', 'b'].map((id) => batch.add(request(id, [1])));
    expect(batch.statesOf([share('a', 0, 1), share('b', 0, 1)])).toEqual([a, b]);
    expect(batch.statesOf([share('b', 0, 1), share('a', 0, 1)]).map((s) => s.row)).toEqual([1, 0]);
    const resumed = batch.add(request('b', [1, 2], 1));
    expect(batch.statesOf([share('b', 0, 1), share('a', 0, 1)])[0]).toBe(resumed);
    batch.remove('b');
    await expectCode('ERR_KVASIR_NATIVE', () => batch.statesOf([share('b', 0, 1)]));
  });

  it("a request's tokens are its own: the scheduler's list does not grow", () => {
    const data = request('a', [5]);
    const batch = new InputBatch(1, BLOCK);
    batch.add(data).tokenIds.push(6);
    expect(data.tokenIds).toEqual([5]);
  });

  it('one request more than rows, or one that is not known, is an error', async () => {
    const batch = new InputBatch(1, BLOCK);
    batch.add(request('a', [1]));
    await expectCode('ERR_KVASIR_NATIVE', () => batch.add(request('b', [1])));
    const error = await expectCode('ERR_KVASIR_NATIVE', () => build(batch, step(share('z', 0, 1))));
    expect(error.message).toContain('z');
  });

  it('are never shared, whatever comes and goes', () => {
    fc.assert(
      fc.property(fc.array(fc.record({ id: fc.constantFrom(...'abcdef'), leave: fc.boolean() }), { maxLength: 60 }), (events) => {
        const batch = new InputBatch(4, BLOCK);
        const live = new Map<string, number>();
        for (const { id, leave } of events) {
          if (leave || (live.size === 4 && !live.has(id))) {
            expect(batch.remove(id)).toBe(live.get(id) ?? null);
            live.delete(id);
          } else live.set(id, batch.add(request(id, [1])).row);
          expect(new Set(live.values()).size).toBe(live.size);
          for (const [name, row] of live) expect(row < 4 && batch.get(name).row === row).toBe(true);
        }
      }),
    );
  });
});

describe('the inputs of a step', () => {
  it('are the tokens of all requests one after another, slots exact across blocks', () => {
    const batch = new InputBatch(4, BLOCK);
    batch.add(request('long', [10, 11, 12, 13, 14, 15, 16, 17, 18, 19])).blockIds.push(7, 2, 5);
    batch.add(request('decode', [20, 21, 22, 23, 24], 3)).blockIds.push(9, 1);
    expect(build(batch, step(share('decode', 4, 1), share('long', 3, 6)))).toEqual({
      drawing: [0], // the prompt of the other goes on
      values: {
        inputIds: [24, 13, 14, 15, 16, 17, 18],
        positions: [4, 3, 4, 5, 6, 7, 8],
        slotMapping: [4n, 31n, 8n, 9n, 10n, 11n, 20n],
        queryStartLoc: [0, 1, 7],
        seqLens: [5, 9],
        seqRows: [1, 0],
        feedbackRows: new Array(7).fill(-1),
        logitRows: [0],
        sampleRows: [1],
        samplePositions: [5],
        updateIndices: [],
        updateValues: [],
      },
    });
  });

  it('logits are those of the last token of each request that gets one', () => {
    const batch = new InputBatch(4, BLOCK);
    for (const id of ['a', 'b', 'c']) batch.add(request(id, [1, 2, 3, 4, 5, 6])).blockIds.push(1, 2);
    const { values, drawing } = build(batch, step(share('c', 2, 4), share('a', 0, 3), share('b', 5, 1)));
    expect(drawing).toEqual([0, 2]);
    expect(values).toMatchObject({ logitRows: [3, 7], sampleRows: [2, 1], samplePositions: [6, 6] });
  });

  it('a token that is still being sampled comes from the request\'s row on the device', () => {
    const batch = new InputBatch(4, BLOCK);
    batch.add(request('other', [1]));
    const state = batch.add(request('ahead', [10, 11, 12]));
    state.blockIds.push(3);
    state.numPendingTokens = 1;
    expect(build(batch, step(share('ahead', 3, 1)))).toMatchObject({
      drawing: [0],
      values: { inputIds: [0], feedbackRows: [state.row], seqLens: [4], samplePositions: [4] },
    });
  });

  it('padding neither writes nor reads KV, and nothing is drawn for it', () => {
    const batch = new InputBatch(4, BLOCK);
    batch.add(request('a', [10, 11])).blockIds.push(3);
    expect(build(batch, step(share('a', 1, 1)), 4)).toEqual({
      drawing: [0],
      values: {
        inputIds: [11, 0, 0, 0],
        positions: [1, 0, 0, 0],
        slotMapping: [BigInt(3 * BLOCK + 1), -1n, -1n, -1n],
        queryStartLoc: [0, 1, 2, 3, 4],
        seqLens: [2, 0, 0, 0],
        seqRows: [0, 0, 0, 0],
        feedbackRows: [-1, -1, -1, -1],
        logitRows: [0, 1, 2, 3],
        sampleRows: [0, -1, -1, -1],
        samplePositions: [2, 0, 0, 0],
        updateIndices: [],
        updateValues: [],
      },
    });
  });

  it('the chunks of a prompt give the slots that the whole prompt would get', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 9 }), fc.integer({ min: 0, max: 1000 }), (length, chunk, firstBlock) => {
        const batch = new InputBatch(1, BLOCK);
        const tokens = Array.from({ length }, (_, i) => i + 100);
        const blocks = Array.from({ length: Math.ceil(length / BLOCK) }, (_, i) => (firstBlock + 37 * i) % 1013);
        batch.add(request('a', tokens)).blockIds.push(...blocks);
        for (let start = 0; start < length; start += chunk) {
          const n = Math.min(chunk, length - start);
          const { values } = build(batch, step(share('a', start, n)));
          expect(values.inputIds).toEqual(tokens.slice(start, start + n));
          (values.positions as number[]).forEach((position, i) => {
            expect(position).toBe(start + i);
            expect(Number(values.slotMapping![i])).toBe(blocks[Math.floor(position / BLOCK)]! * BLOCK + (position % BLOCK));
          });
        }
      }),
    );
  });

  it('every KV cache group has slots of its own, in padding too', () => {
    const batch = new InputBatch(4, BLOCK, 2);
    batch.add(request('a', [10, 11, 12, 13, 14, 15])).blockIds.push(1, 2, 3, 4);
    batch.add(request('b', [20])).blockIds.push(5, 6);
    const slots = (scheduled: ScheduledRequest[], paddedSize: number): number[] => {
      const total = scheduled.reduce((n, s) => n + s.numScheduledTokens, 0);
      const inputs = new StepInputs(100, 10, 0, 2);
      inputs.reset(Math.max(total, paddedSize), Math.max(scheduled.length, paddedSize), 0);
      batch.buildInputs(step(...scheduled), batch.statesOf(scheduled), inputs);
      expect(inputs.slotsAt(1) - inputs.slotsAt(0)).toBe(2 * inputs.numTokens);
      return Array.from(new BigInt64Array(inputs.words.buffer, 4 * inputs.slotsAt(0), 2 * inputs.numTokens), Number);
    };
    expect(slots([share('a', 3, 2), share('b', 0, 1)], 0)).toEqual([7, 12, 20, 11, 16, 24]);
    expect(slots([share('a', 5, 1), share('b', 0, 1)], 3)).toEqual([13, 20, -1, 17, 24, -1]);
  });

  it('slots beyond 2^31 are exact', () => {
    const batch = new InputBatch(1, 16);
    batch.add(request('a', [1])).blockIds.push(2 ** 28 + 1);
    expect(build(batch, step(share('a', 0, 1))).values.slotMapping).toEqual([2n ** 32n + 16n]);
  });
});
