import * as fc from 'fast-check';
import { FRAME_HEADER_BYTES, FrameReader, FrameType, frameOf, writeFrameHeader } from '../../lib/distributed/frames';

type Frame = readonly [type: number, payload: string];

function readAll(chunks: readonly Buffer[], onlyType: number | null = null): Frame[] {
  const frames: Frame[] = [];
  const reader = new FrameReader((type, payload) => frames.push([type, payload.toString('latin1')]), onlyType);
  for (const chunk of chunks) reader.push(chunk);
  return frames;
}

/** Cuts bytes at the given places, wherever they fall. */
function cut(bytes: Buffer, places: readonly number[]): Buffer[] {
  const at = [...new Set(places.map((place) => place % (bytes.length + 1)))].sort((a, b) => a - b);
  return [0, ...at].map((from, i) => bytes.subarray(from, at[i] ?? bytes.length));
}

const headerOf = (type: number, length: number): Buffer => {
  const header = Buffer.alloc(FRAME_HEADER_BYTES);
  header.writeUInt32LE(length);
  header[4] = type;
  return header;
};

describe('frames', () => {
  test('come out as they went in, however the stream is cut', () => {
    const frame = fc.tuple(fc.constantFrom(FrameType.step, FrameType.exchange, FrameType.fail), fc.uint8Array({ maxLength: 40 }));
    fc.assert(
      fc.property(fc.array(frame, { maxLength: 8 }), fc.array(fc.nat(400), { maxLength: 20 }), (frames, places) => {
        const bytes = Buffer.concat(frames.map(([type, payload]) => frameOf(type, payload)));
        expect(readAll(cut(bytes, places))).toEqual(frames.map(([type, payload]) => [type, Buffer.from(payload).toString('latin1')]));
      }),
      { numRuns: 500 },
    );
  });

  test('a frame that came whole is a view of what came, not a copy', () => {
    const chunk = frameOf(FrameType.step, Buffer.from('abc'));
    let seen: Buffer | null = null;
    new FrameReader((_, payload) => (seen = payload)).push(chunk);
    expect(seen!.buffer).toBe(chunk.buffer);
    expect(seen!.toString()).toBe('abc');
  });

  test('a header can be written in front of a payload', () => {
    const frame = Buffer.from('.....step');
    expect(readAll([writeFrameHeader(frame, FrameType.step)])).toEqual([[FrameType.step, 'step']]);
  });

  test.each([
    ['an unknown type', 99, 0],
    ['type 0', 0, 0],
    ['more bytes than a hello may have', FrameType.hello, (64 << 10) + 1],
    ['the largest length', FrameType.step, 0xffffffff],
    ['a payload where there is none', FrameType.bye, 1],
  ])('%s is refused as soon as the header is there', (_, type, length) => {
    const header = headerOf(type, length);
    expect(() => readAll([header])).toThrow(expect.objectContaining({ code: 'ERR_KVASIR_RANK' }));
    expect(() => readAll([header.subarray(0, 3), header.subarray(3)])).toThrow(expect.objectContaining({ code: 'ERR_KVASIR_RANK' }));
  });

  test('a length alone takes no memory', () => {
    const before = process.memoryUsage().arrayBuffers;
    const readers = Array.from({ length: 100 }, () => new FrameReader(() => undefined));
    for (const reader of readers) reader.push(headerOf(FrameType.step, 512 << 20));
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(1 << 20);
  });

  test('of a stranger, only the expected type is read, until it is trusted', () => {
    const frames: Frame[] = [];
    const reader = new FrameReader((type, payload) => frames.push([type, payload.toString()]), FrameType.hello);
    reader.push(frameOf(FrameType.hello, Buffer.from('hi')));
    expect(() => reader.push(frameOf(FrameType.step, Buffer.from('x')))).toThrow(expect.objectContaining({ code: 'ERR_KVASIR_RANK' }));
    const other = new FrameReader((type) => (frames.push([type, '']), other.acceptAll()), FrameType.hello);
    other.push(Buffer.concat([frameOf(FrameType.hello, Buffer.alloc(0)), frameOf(FrameType.exchange, Buffer.alloc(0))]));
    expect(frames).toEqual([[FrameType.hello, 'hi'], [FrameType.hello, ''], [FrameType.exchange, '']]);
  });

  test('after stop() nothing is given, also of the chunk at hand', () => {
    let numFrames = 0;
    const reader = new FrameReader(() => {
      numFrames++;
      reader.stop();
    });
    const two = Buffer.concat([frameOf(FrameType.step, Buffer.alloc(3)), frameOf(FrameType.step, Buffer.alloc(3))]);
    reader.push(two);
    reader.push(two);
    expect(numFrames).toBe(1);
  });
});
