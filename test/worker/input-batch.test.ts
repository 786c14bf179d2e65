import fc from 'fast-check';
import type { NewRequestData, SchedulerOutput, ScheduledRequest } from '../../lib/core/types';
import { InputBatch } from '../../lib/worker/input-batch';
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
    const error = await expectCode('ERR_KVASIR_NATIVE', () => batch.buildInputs(step(share('z', 0, 1))));
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
    expect(batch.buildInputs(step(share('decode', 4, 1), share('long', 3, 6)))).toEqual({
      inputIds: Int32Array.of(24, 13, 14, 15, 16, 17, 18),
      positions: Int32Array.of(4, 3, 4, 5, 6, 7, 8),
      slotMapping: BigInt64Array.of(4n, 31n, 8n, 9n, 10n, 11n, 20n),
      queryStartLoc: Int32Array.of(0, 1, 7),
      seqLens: Int32Array.of(5, 9),
      seqRows: Int32Array.of(1, 0),
      feedbackRows: new Int32Array(7).fill(-1),
    });
  });

  it('a token that is still being sampled comes from the request\'s row on the device', () => {
    const batch = new InputBatch(4, BLOCK);
    batch.add(request('other', [1]));
    const state = batch.add(request('ahead', [10, 11, 12]));
    state.blockIds.push(3);
    state.numPendingTokens = 1;
    const inputs = batch.buildInputs(step(share('ahead', 3, 1)));
    expect(inputs.inputIds).toEqual(Int32Array.of(0));
    expect(inputs.feedbackRows).toEqual(Int32Array.of(state.row));
    expect(inputs.seqLens).toEqual(Int32Array.of(4));
  });

  it('padding neither writes nor reads KV', () => {
    const batch = new InputBatch(4, BLOCK);
    batch.add(request('a', [10, 11])).blockIds.push(3);
    const inputs = batch.buildInputs(step(share('a', 1, 1)), 4);
    expect(inputs.slotMapping).toEqual(BigInt64Array.of(BigInt(3 * BLOCK + 1), -1n, -1n, -1n));
    expect(inputs.seqLens).toEqual(Int32Array.of(2, 0, 0, 0));
    expect(inputs.queryStartLoc).toEqual(Int32Array.of(0, 1, 2, 3, 4));
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
          const inputs = batch.buildInputs(step(share('a', start, n)));
          expect(Array.from(inputs.inputIds)).toEqual(tokens.slice(start, start + n));
          inputs.positions.forEach((position, i) => {
            expect(position).toBe(start + i);
            expect(Number(inputs.slotMapping[i])).toBe(blocks[Math.floor(position / BLOCK)]! * BLOCK + (position % BLOCK));
          });
        }
      }),
    );
  });

  it('slots beyond 2^31 are exact', () => {
    const batch = new InputBatch(1, 16);
    batch.add(request('a', [1])).blockIds.push(2 ** 28 + 1);
    expect(batch.buildInputs(step(share('a', 0, 1))).slotMapping).toEqual(BigInt64Array.of(2n ** 32n + 16n));
  });
});
