import fc from 'fast-check';
import * as fs from 'node:fs';
import * as path from 'node:path';
import type { CheckpointEntry } from '../../lib/loader/checkpoint';
import { FileWeight } from '../../lib/loader/file-weight';
import { Parameter, type LoadedWeight } from '../../lib/nn/parameter';
import { deinterleaved, transposed } from '../../lib/nn/weight-views';
import { Device, liveStorages } from '../../lib/tensor/device';
import { ArrayWeight } from '../fixtures/array-weight';
import { expectCode } from '../fixtures/expect-error';
import { makeTempDir } from '../fixtures/safetensors-file';

let device: Device;
beforeAll(() => void (device = Device.create('cpu', 1)));
afterAll(async () => {
  await device.close();
  expect(liveStorages().count).toBe(0);
});

/** The elements of a weight, as a parameter of its shape holds them. */
async function read(weight: LoadedWeight): Promise<number[]> {
  const param = new Parameter('p', weight.shape, 'float32');
  param.allocate(device);
  param.load(weight, null);
  const values = Array.from((await param.tensor.read()) as Float32Array);
  param.dispose();
  return values;
}

const check = (property: fc.IAsyncProperty<unknown>): Promise<void> => fc.assert(property as fc.IAsyncProperty<[unknown]>, { numRuns: 30 });
const small = fc.integer({ min: 1, max: 5 });

describe('transposed', () => {
  it('is the matrix with rows as columns, narrowed along either dimension', () =>
    check(
      fc.asyncProperty(small, small, fc.nat(), fc.nat(), fc.constantFrom(0, 1), async (rows, columns, a, b, dim) => {
        const weight = ArrayWeight.counting('w', [rows, columns]);
        const size = [columns, rows][dim]!;
        const start = a % size;
        const length = 1 + (b % (size - start));
        const view = transposed(weight).narrow(dim, start, length);
        const expected = weight.transpose().narrow(dim, start, length);
        expect(view.shape).toEqual(expected.shape);
        expect(await read(view)).toEqual(Array.from(expected.toArray()));
        expect(view.transpose().shape).toEqual([expected.shape[1], expected.shape[0]]);
      }),
    ));

  it('reads a file', async () => {
    const file = path.join(makeTempDir(), 'weights');
    const values = Float32Array.from({ length: 6 }, (_, i) => i);
    fs.writeFileSync(file, Buffer.concat([Buffer.alloc(3), Buffer.from(values.buffer)]));
    const fd = fs.openSync(file, 'r');
    const weight = FileWeight.of({ name: 'w', dtype: 'float32', shape: [2, 3], fd, byteOffset: 3 } as unknown as CheckpointEntry);
    expect(await read(weight.transpose())).toEqual([0, 3, 1, 4, 2, 5]);
    expect(await read(weight.transpose().narrow(0, 1, 2))).toEqual([1, 4, 2, 5]);
    expect(await read(weight.narrow(1, 1, 2).transpose())).toEqual([1, 4, 2, 5]);
    fs.closeSync(fd);
    fs.rmSync(path.dirname(file), { recursive: true });
  });

  it('refuses what is no matrix', async () => {
    await expectCode('ERR_KVASIR_WEIGHTS', () => transposed(ArrayWeight.counting('w', [4])));
  });
});

describe('deinterleaved', () => {
  it('puts the parts of all groups together, narrowed anywhere', () =>
    check(
      fc.asyncProperty(small, fc.integer({ min: 1, max: 3 }), small, small, fc.constantFrom(0, 1), fc.nat(), fc.nat(), async (groups, parts, width, other, dim, a, b) => {
        const size = groups * parts * width;
        const weight = ArrayWeight.counting('w', dim === 0 ? [size, other] : [other, size]);
        const start = a % size;
        const length = 1 + (b % (size - start));
        const view = deinterleaved(weight, { dim, groups, parts }).narrow(dim, start, length);
        const line = (i: number): number => ((Math.floor(i / width) % groups) * parts + Math.floor(i / width / groups)) * width + (i % width);
        const matrix = dim === 0 ? weight : weight.transpose();
        const lines = Array.from({ length }, (_, i) => Array.from(matrix.narrow(0, line(start + i), 1).toArray()));
        const actual = await read(dim === 0 ? view : view.transpose());
        expect(actual).toEqual(lines.flat());
      }),
    ));

  it('keeps the other dimension narrowed', async () => {
    const view = deinterleaved(ArrayWeight.counting('w', [4, 3]), { dim: 0, groups: 2, parts: 2 }).narrow(1, 1, 2);
    expect(view.shape).toEqual([4, 2]);
    expect(await read(view)).toEqual([1, 2, 7, 8, 4, 5, 10, 11]);
  });

  it('refuses another size, and a span that it has not', async () => {
    const error = await expectCode('ERR_KVASIR_WEIGHTS', () => deinterleaved(ArrayWeight.counting('w', [7]), { dim: 0, groups: 2, parts: 3 }));
    expect(error.message).toContain('w has shape [7], expected a multiple of 2 * 3');
    await expectCode('ERR_KVASIR_WEIGHTS', () => deinterleaved(ArrayWeight.counting('w', [6]), { dim: 0, groups: 2, parts: 3 }).narrow(0, 4, 3));
  });
});
