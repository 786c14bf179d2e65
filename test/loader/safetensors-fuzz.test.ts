import * as fc from 'fast-check';

import { parseSafetensorsHeader, type SafetensorsHeader } from '../../lib/loader/safetensors';
import { KvasirError } from '../../lib/utils/errors';

const BYTES: Readonly<Record<string, number>> = { BOOL: 1, I8: 1, F8_E4M3: 1, BF16: 2, F16: 2, F32: 4, I64: 8 };

/** A header that must be accepted: tensors laid out one after the other. */
const validHeader = fc
  .array(fc.tuple(fc.string({ unit: 'grapheme', maxLength: 8 }), fc.constantFrom(...Object.keys(BYTES)), fc.array(fc.nat(5), { maxLength: 3 })), { maxLength: 6 })
  .map((tensors) => {
    const entries = new Map<string, { dtype: string; shape: number[]; data_offsets: [number, number] }>();
    let offset = 0;
    for (const [name, dtype, shape] of tensors) {
      if (entries.has(name) || name === '__metadata__') continue;
      const end = offset + shape.reduce((a, b) => a * b, BYTES[dtype] ?? 0);
      entries.set(name, { dtype, shape, data_offsets: [offset, end] });
      offset = end;
    }
    const members = [...entries].map(([name, tensor]) => `${JSON.stringify(name)}:${JSON.stringify(tensor)}`);
    return { text: `{${members.join(',')}}`, dataLength: offset, count: entries.size };
  });

const edit = fc.record({
  at: fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true }),
  remove: fc.nat(4),
  insert: fc.oneof(
    fc.uint8Array({ maxLength: 3 }).map((bytes) => Buffer.from(bytes)),
    fc.constantFrom('"', '{', '}', '[', ']', ',', ':', '0', '-1', '1e3', '.5', '9007199254740993', '\\u0000', '\\ud800', 'null', '"dtype":"F32",').map((text) => Buffer.from(text)),
  ),
});

/** Accepts or refuses; anything else is a bug and fails the property. */
function parse(header: Buffer, dataLength: number): SafetensorsHeader | null {
  try {
    return parseSafetensorsHeader(header, dataLength, 'fuzz');
  } catch (error) {
    if (error instanceof KvasirError && error.code === 'ERR_KVASIR_CHECKPOINT') return null;
    throw error;
  }
}

/** What every accepted header promises to the code that reads the data. */
function expectTiled(header: SafetensorsHeader, dataLength: number): void {
  let total = 0;
  for (const { begin, end } of header.tensors.values()) {
    expect(begin >= 0 && begin <= end && end <= dataLength).toBe(true);
    total += end - begin;
  }
  expect(total).toBe(dataLength);
}

it('accepts every valid header', () => {
  fc.assert(
    fc.property(validHeader, ({ text, dataLength, count }) => {
      const header = parseSafetensorsHeader(Buffer.from(text), dataLength, 'fuzz');
      expect(header.tensors.size).toBe(count);
      expectTiled(header, dataLength);
    }),
    { numRuns: 300 },
  );
});

it('accepts a mutated header with all promises kept, or refuses it with ERR_KVASIR_CHECKPOINT', () => {
  fc.assert(
    fc.property(validHeader, fc.array(edit, { minLength: 1, maxLength: 3 }), fc.integer({ min: -1, max: 1 }), ({ text, dataLength }, edits, delta) => {
      let bytes: Buffer = Buffer.from(text);
      for (const { at, remove, insert } of edits) {
        const position = Math.floor(at * bytes.length);
        bytes = Buffer.concat([bytes.subarray(0, position), insert, bytes.subarray(position + remove)]);
      }
      const length = Math.max(0, dataLength + delta);
      const header = parse(bytes, length);
      if (header === null) return;
      expectTiled(header, length);
      expect(() => JSON.parse(bytes.toString('utf8'))).not.toThrow();
    }),
    { numRuns: 2000 },
  );
});

it('answers random bytes the same way', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 64 }), fc.nat(100), (bytes, dataLength) => {
      const header = parse(Buffer.from(bytes), dataLength);
      if (header !== null) expectTiled(header, dataLength);
    }),
    { numRuns: 1000 },
  );
});
