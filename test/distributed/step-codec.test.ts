import * as fc from 'fast-check';
import type { SchedulerOutput } from '../../lib/core/types';
import { StepDecoder } from '../../lib/distributed/step-decoder';
import { StepEncoder } from '../../lib/distributed/step-encoder';
import { SAMPLING_LIMITS, type ResolvedSamplingParams } from '../../lib/sampling/params';
import { KvasirError } from '../../lib/utils/errors';

const PARAMS: ResolvedSamplingParams = {
  ...{ n: 1, presencePenalty: 0, frequencyPenalty: 0, repetitionPenalty: 1, temperature: 0.7, topP: 0.9, topK: 40, minP: 0, seed: 1 },
  ...{ stop: [], stopTokenIds: [], eosTokenIds: [2], maxTokens: 16, minTokens: 0, logprobs: null, promptLogprobs: null },
  ...{ detokenize: true, skipSpecialTokens: true, spacesBetweenSpecialTokens: true, includeStopStrInOutput: false, outputKind: 'cumulative' as const },
  ...{ logitBias: null, allowedTokenIds: null },
};

const int = fc.nat(0x7fffffff);
const finite = fc.double({ noNaN: true, noDefaultInfinity: true }).map((x) => x + 0); // JSON has no -0
const ints = fc.array(int, { maxLength: 5 });
const params: fc.Arbitrary<ResolvedSamplingParams> = fc.record({
  ...{ n: fc.integer({ min: 1, max: SAMPLING_LIMITS.n }), presencePenalty: finite, frequencyPenalty: finite, repetitionPenalty: finite },
  ...{ temperature: finite, topP: finite, topK: int, minP: finite, seed: fc.maxSafeInteger().map((x) => x + 0) },
  ...{ stop: fc.array(fc.string({ unit: 'grapheme' }), { maxLength: 3 }), stopTokenIds: ints, eosTokenIds: ints, maxTokens: int, minTokens: int },
  ...{ logprobs: fc.option(int), promptLogprobs: fc.option(int), detokenize: fc.boolean(), skipSpecialTokens: fc.boolean() },
  ...{ spacesBetweenSpecialTokens: fc.boolean(), includeStopStrInOutput: fc.boolean() },
  outputKind: fc.constantFrom('cumulative' as const, 'delta' as const, 'final' as const),
  logitBias: fc.option(fc.array(fc.tuple(int, finite), { minLength: 1, maxLength: 4 })),
  allowedTokenIds: fc.option(ints),
});

/** Any string is an id: empty ones, halves of surrogate pairs, names that objects have. */
const requestId = fc.oneof(fc.string({ unit: fc.integer({ min: 0, max: 0xffff }).map((c) => String.fromCharCode(c)), maxLength: 12 }), fc.constantFrom('__proto__', '', 'r1'));

/** A life of requests: each step removes some that run, brings new ones (an id may come again), and runs some. */
const steps: fc.Arbitrary<SchedulerOutput[]> = fc
  .array(
    fc.record({
      leave: fc.array(fc.nat(), { maxLength: 3 }),
      enter: fc.array(fc.record({ requestId, tokenIds: fc.array(int, { maxLength: 30 }), prompt: fc.nat(), samplingParams: params }), { maxLength: 3 }),
      run: fc.array(fc.record({ pick: fc.nat(), numComputedTokens: int, numScheduledTokens: fc.nat(1000), newBlockIds: fc.array(int, { maxLength: 12 }) }), { maxLength: 20 }),
    }),
    { maxLength: 12 },
  )
  .map((plans) => {
    const alive: string[] = [];
    return plans.map(({ leave, enter, run }) => {
      const removedRequestIds = leave.flatMap((pick) => (alive.length === 0 ? [] : alive.splice(pick % alive.length, 1)));
      const newRequests = enter.map(({ prompt, ...request }) => ({ ...request, numPromptTokens: prompt % (request.tokenIds.length + 1) }));
      for (const request of newRequests) if (!alive.includes(request.requestId)) alive.push(request.requestId);
      const scheduled = alive.length === 0 ? [] : run.map(({ pick, ...share }) => ({ requestId: alive[pick % alive.length]!, ...share }));
      return { newRequests, scheduled, totalNumScheduledTokens: scheduled.reduce((sum, share) => sum + share.numScheduledTokens, 0), removedRequestIds };
    });
  });

function decodeStep(numRequests: number, round: number): SchedulerOutput {
  const scheduled = Array.from({ length: numRequests }, (_, i) => ({ requestId: `request-${i}`, numComputedTokens: 100 + round, numScheduledTokens: 1, newBlockIds: [] }));
  return { newRequests: [], scheduled, totalNumScheduledTokens: numRequests, removedRequestIds: [] };
}

function newStep(ids: readonly string[], tokenIds: readonly number[] = [1, 2, 3]): SchedulerOutput {
  const newRequests = ids.map((id) => ({ requestId: id, tokenIds, numPromptTokens: tokenIds.length, samplingParams: PARAMS }));
  const scheduled = ids.map((id) => ({ requestId: id, numComputedTokens: 0, numScheduledTokens: tokenIds.length, newBlockIds: [1] }));
  return { newRequests, scheduled, totalNumScheduledTokens: ids.length * tokenIds.length, removedRequestIds: [] };
}

describe('steps as bytes', () => {
  test('come out as they went in', () => {
    fc.assert(
      fc.property(steps, fc.boolean(), (all, keep) => {
        const encoder = new StepEncoder(5);
        const decoder = new StepDecoder();
        for (const step of all) {
          expect(decoder.decode(encoder.encode(step).subarray(5))).toEqual(step);
          if (keep) encoder.keep();
        }
      }),
      { numRuns: 300 },
    );
  });

  test('a decode step is 16 bytes a request, and takes no new memory', () => {
    const encoder = new StepEncoder();
    const first = encoder.encode(newStep(Array.from({ length: 256 }, (_, i) => `request-${i}`))).buffer;
    for (let round = 0; round < 3; round++) {
      const bytes = encoder.encode(decodeStep(256, round));
      expect(bytes.length).toBe(17 + 16 * 256);
      expect(bytes.buffer).toBe(first);
    }
  });

  test('kept bytes stay as they are', () => {
    const encoder = new StepEncoder();
    const first = encoder.encode(newStep(['a']));
    const copy = Buffer.from(first);
    encoder.keep();
    encoder.encode(newStep(['b'], [9, 9, 9]));
    expect(first.equals(copy)).toBe(true);
  });

  test('memory of one huge step is not kept', () => {
    const encoder = new StepEncoder();
    encoder.encode(newStep(['a'], new Array<number>(2_000_000).fill(7)));
    expect(encoder.encode(decodeStep(0, 0)).buffer.byteLength).toBeLessThan(1 << 20);
  });

  test('an id that was removed and comes again in the same step is another request; handles are used again', () => {
    const encoder = new StepEncoder();
    const decoder = new StepDecoder();
    for (let round = 0; round < 1000; round++) {
      const step = { ...newStep(['a', 'b']), removedRequestIds: round === 0 ? ['never sent'] : ['b', 'a'] };
      const bytes = encoder.encode(step);
      expect(decoder.decode(bytes)).toEqual({ ...step, removedRequestIds: round === 0 ? [] : ['b', 'a'] });
      expect(Math.max(bytes.readInt32LE(bytes.length - 20), bytes.readInt32LE(bytes.length - 40))).toBeLessThan(2);
    }
  });

  test('a request that no step brought is a bug that is named', () => {
    expect(() => new StepEncoder().encode(decodeStep(1, 0))).toThrow(expect.objectContaining({ code: 'ERR_KVASIR_ENGINE_DEAD' }));
  });
});

describe('damaged steps', () => {
  const encoder = new StepEncoder();
  const messages = [newStep(['a', 'b', 'c']), { ...newStep(['b']), removedRequestIds: ['a', 'b'] }].map((step) => Buffer.from(encoder.encode(step)));

  /** Decodes the messages in order; whatever is thrown must be the one error for this. */
  function outcome(all: readonly Buffer[]): 'fine' | 'refused' {
    const decoder = new StepDecoder();
    try {
      for (const bytes of all) decoder.decode(bytes);
      return 'fine';
    } catch (error) {
      if (error instanceof KvasirError && error.code === 'ERR_KVASIR_RANK') return 'refused';
      throw error;
    }
  }

  test('the messages themselves are fine', () => {
    expect(outcome(messages)).toBe('fine');
    expect(outcome(messages.slice(1))).toBe('refused');
  });

  test('every truncation and every byte too many is refused', () => {
    for (const [i, bytes] of messages.entries()) {
      const with_ = (damaged: Buffer): Buffer[] => messages.map((message, k) => (k === i ? damaged : message));
      for (let length = 0; length < bytes.length; length++) expect(outcome(with_(bytes.subarray(0, length)))).toBe('refused');
      expect(outcome(with_(Buffer.concat([bytes, Buffer.alloc(1)])))).toBe('refused');
    }
  });

  test('every byte set to any of some values is refused or read, and nothing large is allocated', () => {
    const first = messages[0]!;
    const before = process.memoryUsage().arrayBuffers;
    let numRefused = 0;
    for (let at = 0; at < first.length; at++) {
      for (const value of [0, 1, 0x7f, 0x80, 0xff, first[at]! ^ 1]) {
        const bytes = Buffer.from(first);
        bytes[at] = value;
        if (outcome([bytes]) === 'refused') numRefused++;
      }
    }
    expect(numRefused).toBeGreaterThan(first.length);
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(64 << 20);
  });

  test('random bytes and random changes are refused or read', () => {
    const change = fc.record({ at: fc.nat(), bytes: fc.uint8Array({ minLength: 1, maxLength: 8 }) });
    fc.assert(
      fc.property(fc.array(change, { minLength: 1, maxLength: 4 }), fc.uint8Array({ maxLength: 200 }), (changes, noise) => {
        const bytes = Buffer.from(messages[0]!);
        for (const { at, bytes: values } of changes) Buffer.from(values).copy(bytes, at % bytes.length);
        expect(['fine', 'refused']).toContain(outcome([bytes]));
        expect(['fine', 'refused']).toContain(outcome([Buffer.from(noise)]));
        expect(['fine', 'refused']).toContain(outcome([Buffer.concat([messages[0]!.subarray(0, 1), noise])]));
      }),
      { numRuns: 3000 },
    );
  });

  test.each([
    ['no JSON', '{'],
    ['no object', '[]'],
    ['a field missing', JSON.stringify({ ...PARAMS, seed: undefined })],
    ['a field more', JSON.stringify({ ...PARAMS, evil: 1 })],
    ['a prototype', JSON.stringify(PARAMS).replace('"n":1', '"__proto__":{"n":1}')],
    ['a wrong type', JSON.stringify({ ...PARAMS, topK: '40' })],
    ['a wrong pair', JSON.stringify({ ...PARAMS, logitBias: [[1]] })],
    ['infinity', JSON.stringify(PARAMS).replace('0.7', '1e999')],
  ])('sampling parameters with %s are refused', (_, json) => {
    const step = newStep(['a']);
    const request = { ...step.newRequests[0]!, samplingParams: { toJSON: () => JSON.parse('0') } as unknown as ResolvedSamplingParams };
    const spliced = new StepEncoder().encode({ ...step, newRequests: [request] });
    // The parameters were written as "0": one byte, which the text takes the place of.
    const at = 1 + 4 + 4 + 4 + 4 + 2;
    expect([spliced.readInt32LE(at), spliced[at + 4]]).toEqual([1, '0'.charCodeAt(0)]);
    const length = Buffer.alloc(4);
    length.writeInt32LE(Buffer.byteLength(json));
    const bytes = Buffer.concat([spliced.subarray(0, at), length, Buffer.from(json), spliced.subarray(at + 5)]);
    expect(() => new StepDecoder().decode(bytes)).toThrow(expect.objectContaining({ code: 'ERR_KVASIR_RANK' }));
    const fine = Buffer.from(JSON.stringify(PARAMS));
    length.writeInt32LE(fine.length);
    expect(new StepDecoder().decode(Buffer.concat([spliced.subarray(0, at), length, fine, spliced.subarray(at + 5)]))).toEqual(step);
  });
});
