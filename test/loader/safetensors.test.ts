import * as fs from 'node:fs';
import * as path from 'node:path';

import { readSafetensorsHeader, type SafetensorsHeader } from '../../lib/loader/safetensors';
import { expectCode } from '../fixtures/expect-error';
import { makeSafetensors, makeTempDir, rawSafetensors, zeros } from '../fixtures/safetensors-file';
import { describeShared, sharedPath } from '../fixtures/shared';

const dir = makeTempDir();
afterAll(() => fs.rmSync(dir, { recursive: true }));

async function readHeader(bytes: Buffer, size = bytes.length): Promise<SafetensorsHeader> {
  const file = path.join(dir, 'x.safetensors');
  fs.writeFileSync(file, bytes);
  const handle = await fs.promises.open(file);
  try {
    return await readSafetensorsHeader(handle, size, 'x.safetensors');
  } finally {
    await handle.close();
  }
}

const info = (dtype: string, shape: string, offsets: string) => `{"dtype":"${dtype}","shape":${shape},"data_offsets":${offsets}}`;
const one = (dtype: string, shape: string, offsets: string) => `{"a":${info(dtype, shape, offsets)}}`;
const bytes = (n: number) => Buffer.alloc(n);

describe('headers that are read', () => {
  it('gives names, dtypes, shapes, spans and metadata', async () => {
    const header = await readHeader(makeSafetensors({ a: zeros(2, 3), b: zeros(1) }, { format: 'pt' }));
    expect([...header.tensors]).toEqual([
      ['a', { dtype: 'F32', shape: [2, 3], begin: 0, end: 24 }],
      ['b', { dtype: 'F32', shape: [1], begin: 24, end: 28 }],
    ]);
    expect([...header.metadata]).toEqual([['format', 'pt']]);
    expect(header.dataLength).toBe(28);
    expect(header.dataOffset % 8).toBe(0);
  });

  const half = `"b":${info('U8', '[2]', '[0,2]')}`;
  const accepted: [string, Buffer][] = [
    ['an empty object', rawSafetensors('{}')],
    ['trailing spaces', rawSafetensors('{}      ')],
    ['whitespace between tokens', rawSafetensors('{ \n\t"a" : {"dtype":"U8", "shape":[ 1 ],"data_offsets":[0 , 1]}\r}', bytes(1))],
    ['a tensor of size zero', rawSafetensors(one('F32', '[0,9]', '[0,0]'))],
    ['a scalar', rawSafetensors(one('F32', '[]', '[0,4]'), bytes(4))],
    ['tensors out of order', rawSafetensors(`{"a":${info('U8', '[3]', '[2,5]')},${half}}`, bytes(5))],
    ['an unaligned tensor', rawSafetensors(`{"a":${info('F32', '[1]', '[2,6]')},${half}}`, bytes(6))],
    ['two F4 in one byte', rawSafetensors(one('F4', '[2]', '[0,1]'), bytes(1))],
    ['four F6 in three bytes', rawSafetensors(one('F6_E2M3', '[4]', '[0,3]'), bytes(3))],
    ['C64 and F8_E8M0', rawSafetensors(`{"a":${info('C64', '[1]', '[2,10]')},"b":${info('F8_E8M0', '[2]', '[0,2]')}}`, bytes(10))],
    ['a surrogate pair escape', rawSafetensors('{"__metadata__":{"a":"\\ud83d\\ude00"}}')],
  ];
  it.each(accepted)('accepts %s', async (_name, file) => {
    expect(await readHeader(file)).toBeDefined();
  });

  it('keeps odd names as opaque keys', async () => {
    const header = await readHeader(rawSafetensors(`{"../\\u0000a":${info('U8', '[1]', '[0,1]')},"__proto__":${info('U8', '[1]', '[1,2]')},"":${info('U8', '[0]', '[2,2]')}}`, bytes(2)));
    expect([...header.tensors.keys()]).toEqual(['../\0a', '__proto__', '']);
  });

  it('reads dimensions up to 2^53 exactly', async () => {
    const header = await readHeader(rawSafetensors(one('U8', '[0,9007199254740992]', '[0,0]')));
    expect(header.tensors.get('a')?.shape).toEqual([0, 2 ** 53]);
  });
});

describe('headers that are refused', () => {
  const a1 = info('U8', '[1]', '[0,1]');
  const valid = rawSafetensors(one('U8', '[4]', '[0,4]'), bytes(4));
  const refused: [string, Buffer, RegExp][] = [
    ['an empty file', bytes(0), /at least 8 bytes/],
    ['a file below 8 bytes', bytes(7), /at least 8 bytes/],
    ['a header length of 0', rawSafetensors(''), /'\{'/],
    ['a header length of 100 000 001', rawSafetensors('{}', bytes(0), 100_000_001n), /at most 100000000/],
    ['a header length of 2^64 - 1', rawSafetensors('{}', bytes(0), 2n ** 64n - 1n), /at most 100000000/],
    ['a header length of 2^53 + 2', rawSafetensors('{}', bytes(0), 2n ** 53n + 2n), /at most 100000000/],
    ['a header longer than the file', rawSafetensors('{}', bytes(0), 3n), /fits into the file/],
    ['a trailing byte', Buffer.concat([valid, bytes(1)]), /fill the 5 bytes/],
    ['a missing byte', valid.subarray(0, -1), /within the 3 bytes/],
    ['a hole', rawSafetensors(`{"a":${a1},"b":${info('U8', '[1]', '[2,3]')}}`, bytes(3)), /no gap/],
    ['a hole at the start', rawSafetensors(one('U8', '[1]', '[1,2]'), bytes(2)), /no gap/],
    ['an overlap', rawSafetensors(`{"a":${info('U8', '[2]', '[0,2]')},"b":${info('U8', '[2]', '[1,3]')}}`, bytes(4)), /no overlap/],
    ['an end before the begin', rawSafetensors(one('U8', '[0]', '[1,0]'), bytes(1)), /data_offsets within/],
    ['sizes that differ from the span', rawSafetensors(one('F32', '[2]', '[0,4]'), bytes(4)), /expected 8 bytes/],
    ['a shape of 2^62 * 8', rawSafetensors(one('F32', '[4611686018427387904,8]', '[0,4]'), bytes(4)), /at most 2\^53/],
    ['a shape whose product overflows', rawSafetensors(one('F32', '[4294967296,4294967296]', '[0,4]'), bytes(4)), /below 2\^53/],
    ['a shape whose product wraps to 0', rawSafetensors(one('U8', '[4294967296,4294967296,0]', '[0,0]')), /below 2\^53/],
    ['2^53 + 1', rawSafetensors(one('U8', '[0,9007199254740993]', '[0,0]')), /at most 2\^53/],
    ['a negative dimension', rawSafetensors(one('U8', '[-1]', '[0,1]'), bytes(1)), /non-negative integer/],
    ['minus zero', rawSafetensors(one('U8', '[-0]', '[0,0]')), /non-negative integer/],
    ['4.0', rawSafetensors(one('U8', '[4.0]', '[0,4]'), bytes(4)), /fraction or exponent/],
    ['1e3', rawSafetensors(one('U8', '[1e3]', '[0,1000]'), bytes(1000)), /fraction or exponent/],
    ['1E0', rawSafetensors(one('U8', '[1E0]', '[0,1]'), bytes(1)), /fraction or exponent/],
    ['a leading zero', rawSafetensors(one('U8', '[04]', '[0,4]'), bytes(4)), /leading zeros/],
    ['a number in a string', rawSafetensors(one('U8', '["4"]', '[0,4]'), bytes(4)), /non-negative integer/],
    ['an unknown dtype', rawSafetensors(one('F31', '[1]', '[0,4]'), bytes(4)), /dtype of BOOL/],
    ['a dtype named like an Object method', rawSafetensors(one('toString', '[1]', '[0,4]'), bytes(4)), /dtype of BOOL/],
    ['half a byte of F4', rawSafetensors(one('F4', '[3]', '[0,2]'), bytes(2)), /whole number of bytes/],
    ['metadata that is no string', rawSafetensors('{"__metadata__":{"a":1}}'), /expected a string/],
    ['metadata that is no object', rawSafetensors('{"__metadata__":[]}'), /expected '\{'/],
    ['a duplicate tensor', rawSafetensors(`{"a":${a1},"a":${a1}}`, bytes(1)), /each tensor once/],
    ['a duplicate spelled with an escape', rawSafetensors(`{"a":${a1},"\\u0061":${a1}}`, bytes(1)), /each tensor once/],
    ['a duplicate metadata key', rawSafetensors('{"__metadata__":{"a":"1","a":"1"}}'), /each key/],
    ['duplicate metadata', rawSafetensors('{"__metadata__":{},"__metadata__":{}}'), /once/],
    ['a duplicate field', rawSafetensors('{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}', bytes(1)), /each once/],
    ['an unknown field', rawSafetensors('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":0}}', bytes(1)), /each once/],
    ['a missing field', rawSafetensors('{"a":{"dtype":"U8","data_offsets":[0,1]}}', bytes(1)), /incomplete tensor/],
    ['one offset', rawSafetensors(one('U8', '[1]', '[1]'), bytes(1)), /incomplete tensor/],
    ['three offsets', rawSafetensors(one('U8', '[1]', '[0,1,1]'), bytes(1)), /at most 2/],
    ['whitespace before the brace', rawSafetensors(' {}'), /first byte/],
    ['a byte order mark', rawSafetensors('\ufeff{}'), /first byte/],
    ['bytes that are not UTF-8', rawSafetensors(Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x7d])), /UTF-8/],
    ['an overlong UTF-8 NUL', rawSafetensors(Buffer.from([0x7b, 0x22, 0xc0, 0x80, 0x22, 0x7d])), /UTF-8/],
    ['a lone surrogate', rawSafetensors('{"__metadata__":{"a":"\\ud800"}}'), /surrogate/],
    ['a lone low surrogate', rawSafetensors('{"__metadata__":{"a":"\\udc00"}}'), /surrogate/],
    ['an unknown escape', rawSafetensors('{"__metadata__":{"a":"\\x"}}'), /escape/],
    ['a control character in a string', rawSafetensors('{"__metadata__":{"a":"\n"}}'), /control characters/],
    ['an unfinished string', rawSafetensors('{"'), /end of the header/],
    ['an unfinished object', rawSafetensors('{'), /expected a string/],
    ['a trailing comma', rawSafetensors(`{"a":${a1},}`, bytes(1)), /expected a string/],
    ['two objects', rawSafetensors('{}{}'), /nothing after/],
    ['NUL padding', rawSafetensors('{}\0'), /nothing after/],
    ['an array', rawSafetensors('[]'), /first byte/],
    ['null', rawSafetensors('null'), /first byte/],
    ['a tensor that is a number', rawSafetensors('{"a":1}'), /expected '\{'/],
  ];
  it.each(refused)('refuses %s', async (_name, file, reason) => {
    const error = await expectCode('ERR_KVASIR_CHECKPOINT', () => readHeader(file));
    expect(error.message).toMatch(reason);
  });

  it('refuses a file that is shorter than it was when it was opened', async () => {
    await expectCode('ERR_KVASIR_CHECKPOINT', () => readHeader(rawSafetensors('{}', bytes(0), 10n), 18));
  });

  it.each(['[', '{"a":'])('refuses 100 000 nested %s without exhausting the stack', async (open) => {
    await expectCode('ERR_KVASIR_CHECKPOINT', () => readHeader(rawSafetensors(`{"a":${open.repeat(100_000)}`)));
    await expectCode('ERR_KVASIR_CHECKPOINT', () => readHeader(rawSafetensors(`{"a":{"dtype":"U8","shape":${open.repeat(100_000)}`)));
  });
});

describe('headers made to be slow', () => {
  const many = (count: number, tensor: (i: number) => string) => `{${Array.from({ length: count }, (_, i) => `"${i}":${tensor(i)}`).join(',')}}`;
  const timed = async (action: () => Promise<unknown>) => {
    const start = process.hrtime.bigint();
    await action();
    return Number(process.hrtime.bigint() - start) / 1e6;
  };

  it('refuses 100 000 overlapping tensors in linear time', async () => {
    const same = many(100_000, () => info('U8', '[1000]', '[0,1000]'));
    const nested = many(100_000, (i) => info('U8', `[${200_000 - 2 * i}]`, `[${i},${200_000 - i}]`));
    const took = await timed(async () => {
      await expectCode('ERR_KVASIR_CHECKPOINT', () => readHeader(rawSafetensors(same, bytes(1000))));
      await expectCode('ERR_KVASIR_CHECKPOINT', () => readHeader(rawSafetensors(nested, bytes(200_000))));
    });
    expect(took).toBeLessThan(5000);
  });

  it('reads 100 000 tensors in descending order', async () => {
    const header = many(100_000, (i) => info('U8', '[1]', `[${99_999 - i},${100_000 - i}]`));
    let tensors = 0;
    const took = await timed(async () => {
      tensors = (await readHeader(rawSafetensors(header, bytes(100_000)))).tensors.size;
    });
    expect(tensors).toBe(100_000);
    expect(took).toBeLessThan(10_000);
  });

  it('refuses a shape of 100 000 ones', async () => {
    await expectCode('ERR_KVASIR_CHECKPOINT', () => readHeader(rawSafetensors(one('U8', `[${'1,'.repeat(99_999)}1]`, '[0,1]'), bytes(1))));
  });
});

describeShared('a real file', () => {
  it('has the tensors of stories260K', async () => {
    const handle = await fs.promises.open(sharedPath('models/stories260K/model.safetensors'));
    try {
      const header = await readSafetensorsHeader(handle.fd, (await handle.stat()).size, 'model.safetensors');
      expect(header.tensors.get('model.embed_tokens.weight')).toMatchObject({ dtype: 'F32', shape: [512, 64] });
    } finally {
      await handle.close();
    }
  });
});
