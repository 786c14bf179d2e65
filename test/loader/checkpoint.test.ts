import { execFileSync } from 'node:child_process';
import * as fs from 'node:fs';
import * as path from 'node:path';

import { type Checkpoint, openCheckpoint } from '../../lib/loader/checkpoint';
import { expectCode } from '../fixtures/expect-error';
import { makeSafetensors, makeTempDir, rawSafetensors, zeros } from '../fixtures/safetensors-file';

const FILE_A = makeSafetensors({ a: zeros(2) });
const FILE_B = makeSafetensors({ b: { dtype: 'BF16', shape: [3], data: Buffer.from([1, 2, 3, 4, 5, 6]) } });

let root: string;
let dir: string;
beforeEach(() => {
  root = makeTempDir();
  dir = path.join(root, 'model');
  fs.mkdirSync(dir);
});
afterEach(() => fs.rmSync(root, { recursive: true }));

const write = (name: string, data: Buffer | string) => fs.writeFileSync(path.join(dir, name), data);
const writeIndex = (weightMap: unknown) => write('model.safetensors.index.json', JSON.stringify({ metadata: {}, weight_map: weightMap }));

async function using<T>(open: Promise<Checkpoint>, body: (checkpoint: Checkpoint) => T): Promise<T> {
  const checkpoint = await open;
  try {
    return body(checkpoint);
  } finally {
    await checkpoint.close();
  }
}

const namesOf = () => using(openCheckpoint(dir), (checkpoint) => [...checkpoint.tensors.keys()].sort());
const openFds = () => fs.readdirSync('/dev/fd').length;

describe('which files are opened', () => {
  it('prefers model.safetensors', async () => {
    write('model.safetensors', FILE_A);
    write('other.safetensors', FILE_B);
    expect(await namesOf()).toEqual(['a']);
  });

  it('reads the shards of the index and nothing else', async () => {
    write('x-1.safetensors', FILE_A);
    write('x-2.safetensors', FILE_B);
    write('extra.safetensors', makeSafetensors({ c: zeros(1) }));
    writeIndex({ a: 'x-1.safetensors', b: 'x-2.safetensors' });
    expect(await namesOf()).toEqual(['a', 'b']);
  });

  it('without an index reads every safetensors file but the consolidated copy', async () => {
    write('one.safetensors', FILE_A);
    write('two.safetensors', FILE_B);
    write('consolidated.00.safetensors', FILE_A);
    expect(await namesOf()).toEqual(['a', 'b']);
  });

  it('reads consolidated files when there is nothing else', async () => {
    write('consolidated.safetensors', FILE_A);
    expect(await namesOf()).toEqual(['a']);
  });

  it('says how to convert pickle weights', async () => {
    write('pytorch_model.bin', 'x');
    const error = await expectCode('ERR_KVASIR_UNSUPPORTED', () => openCheckpoint(dir));
    expect(error.message).toMatch(/pytorch_model\.bin.*save_pretrained/);
  });

  it('says that GGUF is not supported', async () => {
    write('m.gguf', 'x');
    expect((await expectCode('ERR_KVASIR_UNSUPPORTED', () => openCheckpoint(dir))).message).toMatch(/GGUF/);
  });

  it('reports a directory without weights and a missing directory', async () => {
    await expectCode('ERR_KVASIR_MODEL_NOT_FOUND', () => openCheckpoint(dir));
    await expectCode('ERR_KVASIR_MODEL_NOT_FOUND', () => openCheckpoint(path.join(dir, 'none')));
    write('file', '');
    await expectCode('ERR_KVASIR_MODEL_NOT_FOUND', () => openCheckpoint(path.join(dir, 'file')));
  });
});

describe('entries', () => {
  it('say where the bytes lie in the open file', async () => {
    write('one.safetensors', FILE_A);
    write('two.safetensors', FILE_B);
    const bytes = await using(openCheckpoint(dir), (checkpoint) => {
      const entry = checkpoint.tensors.get('b');
      if (entry === undefined) throw new Error('tensor b is missing');
      expect(entry).toMatchObject({ name: 'b', dtype: 'bfloat16', safetensorsDtype: 'BF16', shape: [3], byteLength: 6 });
      expect(checkpoint.totalBytes).toBe(14);
      const buffer = Buffer.alloc(entry.byteLength);
      fs.readSync(entry.fd, buffer, 0, buffer.length, entry.byteOffset);
      return [...buffer];
    });
    expect(bytes).toEqual([1, 2, 3, 4, 5, 6]);
  });

  it('refuse a dtype without counterpart only when it is used', async () => {
    write('model.safetensors', makeSafetensors({ x: { dtype: 'F64', shape: [1], data: Buffer.alloc(8) }, y: zeros(1) }));
    await using(openCheckpoint(dir), async (checkpoint) => {
      expect(checkpoint.tensors.get('y')?.dtype).toBe('float32');
      expect(checkpoint.tensors.get('x')?.safetensorsDtype).toBe('F64');
      await expectCode('ERR_KVASIR_UNSUPPORTED', () => checkpoint.tensors.get('x')?.dtype);
    });
  });

  it('maps every dtype that Kvasir knows', async () => {
    const pairs = { F32: 'float32', F16: 'float16', BF16: 'bfloat16', I32: 'int32', I64: 'int64', U8: 'uint8', I8: 'int8', F8_E4M3: 'float8_e4m3' };
    const tensors = Object.keys(pairs).map((dtype) => [dtype, { dtype, shape: [0], data: Buffer.alloc(0) }]);
    write('model.safetensors', makeSafetensors(Object.fromEntries(tensors)));
    const seen = await using(openCheckpoint(dir), (c) => Object.fromEntries([...c.tensors].map(([name, entry]) => [name, entry.dtype])));
    expect(seen).toEqual(pairs);
  });
});

describe('the index', () => {
  const hostile = [
    '../x.safetensors', '/etc/x.safetensors', 'sub/x.safetensors', '..\\x.safetensors', 'C:x.safetensors', 'x.safetensors\0', 'x\0.safetensors',
    'x.bin', 'x', '', '.safetensors', '..', `${'x'.repeat(250)}.safetensors`,
  ];
  it.each(hostile.map((name) => [JSON.stringify(name).slice(0, 40), name]))('refuses the shard name %s', async (_label, name) => {
    fs.writeFileSync(path.join(root, 'x.safetensors'), FILE_A);
    writeIndex({ a: name });
    await expectCode('ERR_KVASIR_CHECKPOINT', () => openCheckpoint(dir));
  });

  const damaged: [string, string | Buffer][] = [
    ['no JSON', '{'],
    ['no UTF-8', Buffer.from([0x7b, 0xff, 0x7d])],
    ['null', 'null'],
    ['no weight_map', '{}'],
    ['a weight_map that is an array', '{"weight_map":["x.safetensors"]}'],
    ['an empty weight_map', '{"weight_map":{}}'],
    ['a shard that is a number', '{"weight_map":{"a":1}}'],
    ['100 000 nested arrays', '['.repeat(100_000)],
  ];
  it.each(damaged)('refuses %s', async (_name, text) => {
    write('model.safetensors.index.json', text);
    await expectCode('ERR_KVASIR_CHECKPOINT', () => openCheckpoint(dir));
  });

  it('accepts __proto__ as the name of a tensor', async () => {
    const header = '{"__proto__":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}';
    write('x.safetensors', rawSafetensors(header, Buffer.alloc(4)));
    write('model.safetensors.index.json', '{"weight_map":{"__proto__":"x.safetensors"}}');
    expect(await namesOf()).toEqual(['__proto__']);
  });

  it('reports a missing shard', async () => {
    writeIndex({ a: 'x.safetensors' });
    await expectCode('ERR_KVASIR_MODEL_NOT_FOUND', () => openCheckpoint(dir));
  });

  it('refuses a shard without a tensor that the index places there', async () => {
    write('x.safetensors', FILE_A);
    writeIndex({ a: 'x.safetensors', b: 'x.safetensors' });
    expect((await expectCode('ERR_KVASIR_CHECKPOINT', () => openCheckpoint(dir))).message).toMatch(/"b"/);
  });

  it('refuses a shard with a tensor that the index does not place there', async () => {
    write('x.safetensors', makeSafetensors({ a: zeros(1), smuggled: zeros(1) }));
    writeIndex({ a: 'x.safetensors' });
    expect((await expectCode('ERR_KVASIR_CHECKPOINT', () => openCheckpoint(dir))).message).toMatch(/smuggled/);
  });

  it('refuses a key given twice with two shards', async () => {
    write('x.safetensors', FILE_A);
    write('y.safetensors', makeSafetensors({ a: zeros(2), b: zeros(1) }));
    write('model.safetensors.index.json', '{"weight_map":{"a":"x.safetensors","a":"y.safetensors","b":"y.safetensors","a":"x.safetensors"}}');
    await expectCode('ERR_KVASIR_CHECKPOINT', () => openCheckpoint(dir));
  });
});

describe('unsafe files', () => {
  it('refuses a tensor that two files hold, and closes both', async () => {
    write('one.safetensors', FILE_A);
    write('two.safetensors', FILE_A);
    const before = openFds();
    expect((await expectCode('ERR_KVASIR_CHECKPOINT', () => openCheckpoint(dir))).message).toMatch(/one\.safetensors/);
    expect(openFds()).toBe(before);
  });

  it('refuses a link out of the model directory', async () => {
    fs.writeFileSync(path.join(root, 'secret'), FILE_A);
    fs.symlinkSync('../secret', path.join(dir, 'model.safetensors'));
    await expectCode('ERR_KVASIR_CHECKPOINT', () => openCheckpoint(dir));
  });

  it('refuses a link into a sibling whose name begins like the model directory', async () => {
    fs.mkdirSync(`${dir}-evil`);
    fs.writeFileSync(`${dir}-evil/x`, FILE_A);
    fs.symlinkSync('../model-evil/x', path.join(dir, 'model.safetensors'));
    await expectCode('ERR_KVASIR_CHECKPOINT', () => openCheckpoint(dir));
  });

  it('follows a link inside the model directory, and a link to the directory itself', async () => {
    write('real', FILE_A);
    fs.symlinkSync('real', path.join(dir, 'model.safetensors'));
    fs.symlinkSync('model', path.join(root, 'alias'));
    expect(await namesOf()).toEqual(['a']);
    expect(await using(openCheckpoint(path.join(root, 'alias')), (c) => c.tensors.size)).toBe(1);
  });

  it('follows the links of a Hugging Face cache, to blobs only', async () => {
    const cache = path.join(root, 'models--org--name');
    const snapshot = path.join(cache, 'snapshots/abc');
    const hash = 'ab'.repeat(32);
    fs.mkdirSync(snapshot, { recursive: true });
    fs.mkdirSync(path.join(cache, 'blobs'));
    fs.writeFileSync(path.join(cache, 'blobs', hash), FILE_A);
    fs.writeFileSync(path.join(cache, 'blobs', 'other'), FILE_A);
    const link = path.join(snapshot, 'model.safetensors');
    fs.symlinkSync(`../../blobs/${hash}`, link);
    expect(await using(openCheckpoint(snapshot), (c) => c.tensors.size)).toBe(1);
    fs.rmSync(link);
    fs.symlinkSync('../../blobs/other', link);
    await expectCode('ERR_KVASIR_CHECKPOINT', () => openCheckpoint(snapshot));
  });

  it('reports a dangling link and a loop of links', async () => {
    const link = path.join(dir, 'model.safetensors');
    fs.symlinkSync('gone', link);
    await expectCode('ERR_KVASIR_MODEL_NOT_FOUND', () => openCheckpoint(dir));
    fs.rmSync(link);
    fs.symlinkSync('model.safetensors', link);
    await expectCode('ERR_KVASIR_CHECKPOINT', () => openCheckpoint(dir));
  });

  it('refuses a directory and a FIFO without hanging', async () => {
    const file = path.join(dir, 'model.safetensors');
    fs.mkdirSync(file);
    await expectCode('ERR_KVASIR_CHECKPOINT', () => openCheckpoint(dir));
    fs.rmdirSync(file);
    execFileSync('mkfifo', [file]);
    await expectCode('ERR_KVASIR_CHECKPOINT', () => openCheckpoint(dir));
  });

  it('refuses a FIFO as the index without hanging', async () => {
    execFileSync('mkfifo', [path.join(dir, 'model.safetensors.index.json')]);
    await expectCode('ERR_KVASIR_CHECKPOINT', () => openCheckpoint(dir));
  });

  it('closes its files once, however often it is told to', async () => {
    write('model.safetensors', FILE_A);
    const before = openFds();
    const checkpoint = await openCheckpoint(dir);
    expect(openFds()).toBe(before + 1);
    await Promise.all([checkpoint.close(), checkpoint.close()]);
    await checkpoint.close();
    expect(openFds()).toBe(before);
  });
});
