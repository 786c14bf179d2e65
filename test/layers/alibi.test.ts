import { alibiSlopes, alibiSlopesBuffer } from '../../lib/layers/alibi';
import { Device } from '../../lib/tensor/device';
import { expectCode } from '../fixtures/expect-error';
import { makeVllmConfig } from '../fixtures/vllm-config';

describe('alibiSlopes', () => {
  it.each<[number, readonly number[]]>([
    [1, [-8]],
    [2, [-4, -8]],
    [3, [-4, -8, -2]],
    [8, [-1, -2, -3, -4, -5, -6, -7, -8]],
    [12, [-1, -2, -3, -4, -5, -6, -7, -8, -0.5, -1.5, -2.5, -3.5]],
    [16, Array.from({ length: 16 }, (_, i) => -(i + 1) / 2)],
  ])('%d heads: powers of two', (numHeads, exponents) => {
    expect(Array.from(alibiSlopes(numHeads))).toEqual(exponents.map((e) => Math.fround(2 ** e)));
  });

  it('takes every second slope of the next power of two for BLOOM-176B', () => {
    const [all, double] = [alibiSlopes(112), alibiSlopes(128)];
    expect(all.subarray(0, 64)).toEqual(alibiSlopes(64));
    expect(Array.from(all.subarray(64))).toEqual(Array.from({ length: 48 }, (_, i) => double[2 * i]));
  });
});

describe('alibiSlopesBuffer', () => {
  it.each([1, 2, 3, 6])('the ranks of %d hold the slopes one after the other', async (tensorParallelSize) => {
    const device = Device.create('cpu', 1);
    const held: number[] = [];
    for (let tpRank = 0; tpRank < tensorParallelSize; tpRank++) {
      const buffer = alibiSlopesBuffer(makeVllmConfig({ parallel: { tensorParallelSize, tpRank } }), 6);
      buffer.allocate(device);
      held.push(...Array.from((await buffer.tensor.read()) as Float32Array));
      buffer.dispose();
    }
    expect(held).toEqual(Array.from(alibiSlopes(6)));
    await device.close();
  });

  it('needs as many heads on every rank', async () => {
    await expectCode('ERR_KVASIR_LAYER', () => alibiSlopesBuffer(makeVllmConfig({ parallel: { tensorParallelSize: 2, tpRank: 0 } }), 3));
  });
});
