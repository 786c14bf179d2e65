import { Attention } from '../../lib/layers/attention';
import { Device, liveStorages } from '../../lib/tensor/device';
import { tensorTable } from '../../lib/tensor/table';
import { blocksOf, bytesPerBlock, cpuBudget, KvCache } from '../../lib/worker/kv-cache';
import { expectCode } from '../fixtures/expect-error';
import { makeVllmConfig } from '../fixtures/vllm-config';

const GIB = 2 ** 30;
const sized = (cache: { kvCacheBytes?: number | null; numBlocks?: number | null }, maxModelLen = 4096, maxNumSeqs = 256) =>
  makeVllmConfig({ cache: { numBlocks: null, ...cache }, scheduler: { maxNumSeqs }, model: { maxModelLen } });

describe('blocks of the KV pool', () => {
  it.each([
    ['float32', 4],
    ['bfloat16', 2],
    ['float16', 2],
    ['float8_e4m3', 1],
  ] as const)('a block of %s holds keys and values of all layers', (dtype, bytes) => {
    const kvCache = { dtype };
    const config = makeVllmConfig({ cache: { blockSize: 16 } });
    expect(bytesPerBlock(config, [{ numKvHeads: 8, headDim: 128, kvCache }, { numKvHeads: 2, headDim: 64, kvCache }])).toBe(2 * 16 * (8 * 128 + 2 * 64) * bytes);
  });

  it('as configured', () => {
    expect(blocksOf(sized({ numBlocks: 77 }), 1e12, 0)).toBe(77);
  });

  it('what the byte budget holds', () => {
    expect(blocksOf(sized({ kvCacheBytes: 1000 * 4096 + 4095 }), 4096, 0)).toBe(1000);
  });

  it.each([
    ['a quarter of the free memory', 8 * GIB, (2 * GIB) / 65536],
    ['at most 4 GiB', 64 * GIB, (4 * GIB) / 65536],
  ])('without a budget: %s', (_name, free, expected) => {
    expect(blocksOf(sized({}, 2 ** 20), 65536, cpuBudget(free))).toBe(expected);
  });

  it('never more than all requests at full length need, and the null block', () => {
    expect(blocksOf(sized({}, 100, 3), 1024, cpuBudget(64 * GIB))).toBe(3 * 7 + 1);
  });

  it('two blocks are the least: one of them is the null block', async () => {
    expect(blocksOf(sized({ kvCacheBytes: 2 * 4096 }), 4096, 0)).toBe(2);
    const error = await expectCode('ERR_KVASIR_OUT_OF_MEMORY', () => blocksOf(sized({ kvCacheBytes: 2 * 4096 - 1 }), 4096, 0));
    expect(error.message).toContain('8191 bytes');
    expect(error.message).toContain('4096');
  });
});

describe('KvCache', () => {
  const options = { numHeads: 4, numKvHeads: 2, headDim: 4, scale: 1 };

  it('gives every attention layer its part and takes it back', async () => {
    const config = makeVllmConfig({ cache: { numBlocks: 5 } });
    const device = Device.create('cpu', 1);
    const layers = ['a', 'b'].map((name) => new Attention(config, options, name));
    const cache = KvCache.allocate(config, device);
    expect(cache).toMatchObject({ numBlocks: 5, bytes: 2 * 5 * 2 * 2 * 16 * 4 * 4 });
    expect(liveStorages()).toEqual({ count: 2, bytes: cache.bytes });
    for (const { kvCache } of layers) expect(kvCache).toMatchObject({ shape: [5, 2, 2, 16, 4], strides: [256, 128, 64, 4, 1] });
    expect(layers[0]!.kvCache.storage).not.toBe(layers[1]!.kvCache.storage);
    cache.dispose();
    await device.close();
    expect(liveStorages().count).toBe(0);
    expect(tensorTable().liveRows).toBe(0);
  });

  it.each([
    ['bfloat16', 2],
    ['float32', 4],
  ] as const)('of a %s model holds more blocks in float8_e4m3, %d times as many in the same bytes', async (dtype, times) => {
    const blocks: number[] = [];
    for (const kvCacheDtype of ['auto', 'fp8'] as const) {
      const config = makeVllmConfig({ model: { dtype, maxModelLen: 4096 }, cache: { numBlocks: null, kvCacheDtype, kvCacheBytes: 1 << 16 }, scheduler: { maxNumSeqs: 64 } });
      const device = Device.create('cpu', 1);
      const layer = new Attention(config, options, 'a');
      const cache = KvCache.allocate(config, device);
      expect(layer.kvCache.dtype).toBe(kvCacheDtype === 'fp8' ? 'float8_e4m3' : dtype);
      expect(liveStorages()).toEqual({ count: 1, bytes: 1 << 16 });
      blocks.push(cache.numBlocks);
      for (const param of layer.parameters()) param.dispose();
      cache.dispose();
      await device.close();
    }
    expect(blocks[1]).toBe(times * blocks[0]!);
    expect(tensorTable().liveRows).toBe(0);
  });

  it('that does not fit leaves nothing behind', async () => {
    const config = makeVllmConfig({ cache: { numBlocks: 2 ** 30 } });
    const device = Device.create('cpu', 1);
    new Attention(config, { ...options, numKvHeads: 1, headDim: 1 }, 'small'); // 128 GiB that nothing touches
    new Attention(config, { ...options, numHeads: 64, numKvHeads: 64, headDim: 512 }, 'large');
    await expectCode('ERR_KVASIR_OUT_OF_MEMORY', () => KvCache.allocate(config, device));
    await device.close();
    expect(liveStorages().count).toBe(0);
    expect(tensorTable().liveRows).toBe(0);
  });
});
