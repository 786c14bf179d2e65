import { narrow } from '../../lib/tensor/views';
import type { Tensor } from '../../lib/tensor/tensor';
import { expectCode } from '../fixtures/expect-error';
import { describeKind, KINDS, TestGroup } from '../fixtures/communicators';
import { COMM_CASES, type CommCase, commInput, commSum, LARGE_COMM_CASES } from './cases/comm';
import { forEachIsa, fromBf16Bits, fromF16Bits, type FloatType, relativeL2, TEST_DEVICE, TOLERANCE } from './harness';

const bytesOf = (array: NodeJS.TypedArray): Buffer => Buffer.from(array.buffer, array.byteOffset, array.byteLength);
const rowsOf = (cases: readonly CommCase[]): [string, CommCase][] => cases.map((c) => [JSON.stringify(c), c]);

function decode(dtype: FloatType, bytes: Buffer): Float64Array {
  const buffer = Uint8Array.from(bytes).buffer;
  if (dtype === 'float32') return Float64Array.from(new Float32Array(buffer));
  return Float64Array.from(new Uint16Array(buffer), dtype === 'bfloat16' ? fromBf16Bits : fromF16Bits);
}

/** On the CPU the very bits of adding in float32 by rank; elsewhere the order of the sum is the backend's. */
function expectSum(dtype: FloatType, actual: Buffer, inputs: readonly Float64Array[]): void {
  const expected = bytesOf(commSum(dtype, inputs));
  if (TEST_DEVICE === 'cpu') expect(actual.equals(expected)).toBe(true);
  else expect(relativeL2(decode(dtype, actual), decode(dtype, expected))).toBeLessThan(TOLERANCE[dtype]);
}

describe.each(KINDS)('%s', (kind) => {
  const inputsOf = (c: CommCase, count?: number): Float64Array[] => Array.from({ length: c.size }, (_, rank) => commInput(c, rank, count));

  describeKind(kind)('collectives', () => {
    it.each(rowsOf([...COMM_CASES, ...LARGE_COMM_CASES]))('allReduce %s: the sum, with the same bits on every rank', async (_name, c) => {
      const group = await TestGroup.connected(kind, c.size, { threads: 2 });
      const inputs = inputsOf(c);
      const tensors = group.each((r, communicator) => communicator.allReduce(r.tensor(c.dtype, [c.count], inputs[r.rank]!)));
      const results = await group.bytes(tensors);
      expectSum(c.dtype, results[0]!, inputs);
      for (const bytes of results) expect(bytes.equals(results[0]!)).toBe(true);
      await group.close();
    });

    it.each(rowsOf(COMM_CASES))('reduceScatter %s: each rank has the sum of its piece', async (_name, c) => {
      const group = await TestGroup.connected(kind, c.size);
      const inputs = inputsOf(c, c.count * c.size);
      const tensors = group.each((r, communicator) => communicator.reduceScatter(r.tensor(c.dtype, [c.size * c.count], inputs[r.rank]!)));
      const results = await group.bytes(tensors);
      results.forEach((bytes, rank) => expectSum(c.dtype, bytes, inputs.map((input) => input.slice(rank * c.count, (rank + 1) * c.count))));
      await group.close();
    });

    it.each(rowsOf(COMM_CASES))('allGather and broadcast %s', async (_name, c) => {
      const group = await TestGroup.connected(kind, c.size);
      const inputs = inputsOf(c);
      const root = c.size - 1;
      const gathered = group.each((r, communicator) => communicator.allGather(r.tensor(c.dtype, [c.count], inputs[r.rank]!)));
      const sent = group.each((r, communicator) => communicator.broadcast(r.tensor(c.dtype, [c.count], inputs[r.rank]!), root));
      const parts = inputs.map((input) => bytesOf(commSum(c.dtype, [input])));
      for (const bytes of await group.bytes(gathered)) expect(bytes.equals(Buffer.concat(parts))).toBe(true);
      for (const bytes of await group.bytes(sent)) expect(bytes.equals(parts[root]!)).toBe(true);
      await group.close();
    });

    it('many in a row, of changing sizes, keep their order', async () => {
      const group = await TestGroup.connected(kind, 3);
      const tensors = group.each((r, communicator) =>
        Array.from({ length: 60 }, (_, i) => communicator.allReduce(r.tensor('float32', [1 + ((i * 7919) % 30_000)], new Float64Array(1 + ((i * 7919) % 30_000)).fill(i + r.rank)))),
      );
      for (const list of tensors)
        for (const [i, x] of list.entries()) expect(new Set((await x.read()) as Float32Array)).toEqual(new Set([3 * i + 3]));
      await group.close();
    });

    it('tensors of no elements are fine', async () => {
      const group = await TestGroup.connected(kind, 2);
      const outs = group.each((r, communicator) => {
        const x = r.tensor('float32', [0, 4], new Float64Array(0));
        communicator.allReduce(x);
        return [communicator.allGather(x), communicator.reduceScatter(x)].map((out) => out.shape);
      });
      expect(outs).toEqual(Array(2).fill([[0, 8], [0, 4]]));
      await Promise.all(group.ranks.map((r) => r.device.synchronize()));
      await group.close();
    });

    it('of rows with gaps', async () => {
      const group = await TestGroup.connected(kind, 2);
      const values = Float64Array.from({ length: 12 }, (_, i) => i);
      const wide = group.each((r) => r.tensor('float32', [3, 4], values));
      const middle = (r: number): Tensor => narrow(wide[r]!, 1, 1, 2);
      const gathered = group.each((r, communicator) => communicator.allGather(middle(r.rank)));
      group.each((r, communicator) => communicator.allReduce(middle(r.rank)));
      for (const x of gathered) expect(Array.from((await x.read()) as Float32Array)).toEqual([1, 2, 1, 2, 5, 6, 5, 6, 9, 10, 9, 10]);
      for (const x of wide) expect(Array.from((await x.read()) as Float32Array)).toEqual([0, 2, 4, 3, 4, 10, 12, 7, 8, 18, 20, 11]);
      await group.close();
    });

    it('refuse dtypes, shapes, roots and devices that do not fit', async () => {
      const group = await TestGroup.connected(kind, 2);
      const [zero, one] = group.ranks as [(typeof group.ranks)[0], (typeof group.ranks)[0]];
      const ints = zero.scope.allocate([4], 'int32');
      const x = zero.tensor('float32', [3], new Float64Array(3));
      const refused: (() => unknown)[] = [
        () => zero.run((c) => c.allReduce(ints)),
        () => zero.run((c) => c.reduceScatter(x)),
        () => zero.run((c) => c.broadcast(x, 2)),
        () => zero.run((c) => c.broadcast(x, -1)),
        () => one.run((c) => c.allReduce(x)),
      ];
      for (const action of refused) await expectCode('ERR_KVASIR_TENSOR', action);
      await group.close();
    });
  });
});

describe('sums', () => {
  it('have the same bits with every instruction set', async () => {
    const c: CommCase = { size: 3, dtype: 'bfloat16', count: 1003 };
    const inputs = [0, 1, 2].map((rank) => commInput(c, rank));
    await forEachIsa(async () => {
      const group = await TestGroup.connected('local', 3);
      const tensors = group.each((r, communicator) => communicator.allReduce(r.tensor(c.dtype, [c.count], inputs[r.rank]!)));
      expectSum(c.dtype, (await group.bytes(tensors))[2]!, inputs);
      await group.close();
    });
  });
});
