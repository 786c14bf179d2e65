import { cast } from '../../lib/ops/copy';
import { Device, liveStorages } from '../../lib/tensor/device';
import { inScope, TemporaryScope, withTensors } from '../../lib/tensor/scope';
import { tensorTable } from '../../lib/tensor/table';
import { Tensor } from '../../lib/tensor/tensor';
import { narrow, reshape, split } from '../../lib/tensor/views';
import { expectCode } from '../fixtures/expect-error';

let device: Device;
let scope: TemporaryScope;

beforeEach(() => {
  device = Device.create('cpu', 1);
  scope = new TemporaryScope(device);
});

afterEach(async () => {
  scope.dispose();
  await device.close();
  expect(liveStorages().count).toBe(0);
  expect(tensorTable().liveRows).toBe(0);
});

function counting(shape: readonly number[]): Tensor {
  const tensor = scope.allocate(shape, 'float32');
  tensor.write(Float32Array.from({ length: tensor.numel }, (_, i) => i));
  return tensor;
}

/** The elements of a view, row-major. */
async function elements(tensor: Tensor): Promise<number[]> {
  return Array.from((await cast(tensor, 'float32').read()) as Float32Array);
}

const inside = <T>(fn: () => T): T => inScope(scope, fn);

describe('views', () => {
  it('narrow takes a span of any dimension, also of a view, without a copy', async () => {
    const x = counting([3, 4, 2]);
    const storages = liveStorages().count;
    const middle = inside(() => narrow(x, 1, 1, 2));
    expect(middle.shape).toEqual([3, 2, 2]);
    expect(middle.isContiguous()).toBe(false);
    const corner = inside(() => narrow(narrow(middle, 0, 1, 2), -1, 1, 1));
    expect(corner.storage).toBe(x.storage);
    expect(liveStorages().count).toBe(storages);
    expect(await inside(() => elements(middle))).toEqual([2, 3, 4, 5, 10, 11, 12, 13, 18, 19, 20, 21]);
    expect(await inside(() => elements(corner))).toEqual([11, 13, 19, 21]);
  });

  it('narrow may take nothing, at the end too', async () => {
    const none = inside(() => narrow(counting([3, 4]), 0, 3, 0));
    expect(none.shape).toEqual([0, 4]);
    expect(await inside(() => elements(none))).toEqual([]);
  });

  it.each([
    [2, 2, 3],
    [1, -1, 2],
    [0, 0, -1],
    [0, 0.5, 1],
    [0, 0, NaN],
    [2, 0, 1],
    [-3, 0, 1],
    [0.5, 0, 1],
  ])('narrow refuses dimension %p from %p, %p long', async (dim, start, length) => {
    const x = counting([4, 4]);
    await expectCode('ERR_KVASIR_TENSOR', () => inside(() => narrow(x, dim, start, length)));
  });

  it('split gives rows with gaps that reshape can cut into heads', async () => {
    const merged = counting([2, 10]);
    const [q, k, v] = inside(() => split(merged, [6, 2, 2])) as [Tensor, Tensor, Tensor];
    const heads = inside(() => reshape(q, [2, 3, 2]));
    expect(heads.strides).toEqual([10, 2, 1]);
    expect(await inside(() => elements(heads))).toEqual([0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15]);
    expect(await inside(() => elements(k))).toEqual([6, 7, 16, 17]);
    expect(await inside(() => elements(inside(() => reshape(v, [2, 1, 2]))))).toEqual([8, 9, 18, 19]);
    const secondHead = inside(() => narrow(heads, 1, 1, 1));
    expect(await inside(() => elements(secondHead))).toEqual([2, 3, 12, 13]);
  });

  it('split names sizes that do not add up', async () => {
    const x = counting([2, 10]);
    const error = await expectCode('ERR_KVASIR_TENSOR', () => inside(() => split(x, [6, 3])));
    expect(error.message).toContain('[6, 3] sum to 9, expected 10');
  });

  it('reshape of a contiguous tensor takes any shape, also through a narrowed view of whole rows', async () => {
    const x = counting([4, 6]);
    const rows = inside(() => narrow(x, 0, 1, 2));
    expect(rows.isContiguous()).toBe(true);
    const other = inside(() => reshape(rows, [3, 2, 2]));
    expect(await inside(() => elements(other))).toEqual([6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17]);
    expect(inside(() => reshape(other, [12])).shape).toEqual([12]);
  });

  it('one row of a wide tensor counts as contiguous', () => {
    const row = inside(() => narrow(narrow(counting([3, 8]), 0, 1, 1), 1, 2, 4));
    expect(row.isContiguous()).toBe(true);
    expect(inside(() => reshape(row, [2, 2])).strides).toEqual([2, 1]);
  });

  it.each<[string, readonly number[]]>([
    ['another number of elements', [3, 5]],
    ['joining rows with gaps', [8]],
    ['cutting the outer dimension of rows with gaps', [1, 2, 4]],
    ['negative sizes', [-2, -4]],
  ])('reshape refuses %s', async (_name, shape) => {
    const gaps = inside(() => narrow(counting([2, 6]), 1, 0, 4));
    await expectCode('ERR_KVASIR_TENSOR', () => inside(() => reshape(gaps, shape)));
  });

  it('reshape refuses negative sizes of a contiguous tensor and more than five dimensions', async () => {
    const x = counting([2, 4]);
    await expectCode('ERR_KVASIR_TENSOR', () => inside(() => reshape(x, [-2, -4])));
    await expectCode('ERR_KVASIR_TENSOR', () => inside(() => reshape(x, [1, 1, 1, 1, 2, 4])));
  });
});

describe('tensors', () => {
  it('reading or writing a tensor with gaps, or writing too much, is refused', async () => {
    const gaps = inside(() => narrow(counting([2, 6]), 1, 0, 4));
    await expectCode('ERR_KVASIR_TENSOR', () => gaps.read());
    await expectCode('ERR_KVASIR_TENSOR', () => gaps.write(new Float32Array(8)));
    await expectCode('ERR_KVASIR_TENSOR', () => counting([4]).write(new Float32Array(5)));
    await expectCode('ERR_KVASIR_TENSOR', () => counting([4]).write(new Float64Array(4)));
  });

  it.each([[[-1]], [[1.5]], [[2 ** 31]], [[1, 1, 1, 1, 1, 1]]])('a shape %j is refused before memory is taken', async (shape) => {
    const before = liveStorages();
    await expectCode('ERR_KVASIR_TENSOR', () => device.empty(shape, 'float32'));
    expect(liveStorages()).toEqual(before);
  });

  it('memory that the machine does not have is refused', async () => {
    await expectCode('ERR_KVASIR_OUT_OF_MEMORY', () => device.allocate(2 ** 50));
  });

  it('a disposed tensor is refused, also after its row was given to another one', async () => {
    const x = counting([2, 2]);
    const view = Tensor.view(x.storage, 'float32', 0, [4], [1]);
    view.dispose();
    view.dispose();
    await expectCode('ERR_KVASIR_DISPOSED', () => inside(() => cast(view, 'float32')));
    const other = counting([4]);
    const another = counting([4]);
    expect(other.row).not.toBe(another.row);
    await expectCode('ERR_KVASIR_DISPOSED', () => inside(() => cast(view, 'float32')));
    await expectCode('ERR_KVASIR_DISPOSED', () => view.read());
    await expectCode('ERR_KVASIR_DISPOSED', () => view.rebind(x.storage, 0, [4], [1]));
  });

  it('a view of freed memory is refused', async () => {
    const x = device.empty([4], 'float32');
    const view = Tensor.view(x.storage, 'float32', 0, [4], [1]);
    x.disposeStorage();
    await expectCode('ERR_KVASIR_DISPOSED', () => view.write(new Float32Array(4)));
    view.dispose();
  });

  it('a view beyond its storage is refused', async () => {
    const x = counting([4]);
    const view = Tensor.view(x.storage, 'float32', 4, [4], [1]);
    await expectCode('ERR_KVASIR_TENSOR', () => inside(() => cast(view, 'float32')));
    view.dispose();
  });

  it('the table grows beyond its first capacity and recycles rows', async () => {
    const x = counting([2]);
    const views = Array.from({ length: 10000 }, () => Tensor.view(x.storage, 'float32', 4, [1], [1]));
    const last = views.at(-1)!;
    expect(Array.from((await last.read()) as Float32Array)).toEqual([1]);
    expect(Array.from((await x.read()) as Float32Array)).toEqual([0, 1]);
    const rows = tensorTable().liveRows;
    for (const view of views) view.dispose();
    expect(tensorTable().liveRows).toBe(rows - views.length);
    const again = Tensor.view(x.storage, 'float32', 0, [1], [1]);
    expect(views.length).toBeGreaterThan(again.row - x.row - 1);
    again.dispose();
  });

  it('withTensors frees what it made, but not what was kept', async () => {
    const before = liveStorages().count;
    const kept = await withTensors(device, (within, temporary) =>
      within(() => {
        temporary.allocate([8], 'float32');
        return temporary.keep(temporary.allocate([2], 'int32'));
      }),
    );
    await device.synchronize();
    expect(liveStorages().count).toBe(before + 1);
    kept.disposeStorage();
    await expectCode('ERR_KVASIR_TENSOR', () =>
      withTensors(device, (within, temporary) => within(() => narrow(temporary.allocate([2], 'int32'), 0, 0, 3))),
    );
  });
});
