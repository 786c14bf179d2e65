import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import type { DType } from '../../lib/config/vllm';
import { type FileTensor, loadFromFile } from '../../lib/tensor/file';
import type { Tensor } from '../../lib/tensor/tensor';
import { type CopyLayout, elementIndices, storageElements } from './cases/copy';
import { encode, type FloatType, OpBench, randomValues, roundTo } from './harness';

interface LoadCase {
  readonly name: string;
  readonly shape: readonly number[];
  readonly file: CopyLayout;
  readonly out: CopyLayout;
}

const dense = (strides: readonly number[], offset = 0): CopyLayout => ({ strides, offset });

/** Whole tensors, shards of columns, rows of a merged weight, and experts: matrices of matrices. */
const CASES: readonly LoadCase[] = [
  { name: 'a scalar', shape: [], file: dense([]), out: dense([]) },
  { name: 'a vector', shape: [1001], file: dense([1], 5), out: dense([1]) },
  { name: 'a whole matrix', shape: [37, 64], file: dense([64, 1]), out: dense([64, 1]) },
  { name: 'columns of a matrix', shape: [37, 24], file: dense([64, 1], 40), out: dense([24, 1]) },
  { name: 'into columns of a matrix', shape: [37, 24], file: dense([24, 1]), out: dense([64, 1], 8) },
  { name: 'columns into rows with gaps', shape: [5, 3], file: dense([9, 1], 2), out: dense([7, 1], 1) },
  { name: 'a column', shape: [19, 1], file: dense([4, 1], 3), out: dense([1, 1]) },
  { name: 'a stack of matrices', shape: [3, 5, 8], file: dense([40, 8, 1]), out: dense([40, 8, 1]) },
  { name: 'columns of a stack', shape: [3, 5, 8], file: dense([100, 16, 1], 8), out: dense([40, 8, 1]) },
  { name: 'into every second matrix', shape: [3, 5, 8], file: dense([40, 8, 1]), out: dense([80, 8, 1]) },
  { name: 'five dimensions', shape: [2, 3, 2, 3, 4], file: dense([200, 60, 24, 8, 1], 1), out: dense([300, 80, 30, 9, 1], 2) },
  { name: 'many short rows', shape: [3000, 5], file: dense([40, 1], 30), out: dense([5, 1]) },
  { name: 'many short rows into rows with gaps', shape: [2, 1100, 3], file: dense([8000, 7, 1], 4), out: dense([5600, 5, 1], 1) },
  { name: 'nothing', shape: [0, 4], file: dense([4, 1]), out: dense([4, 1]) },
];

const TYPES: readonly (readonly [FloatType, FloatType])[] = [
  ['bfloat16', 'bfloat16'],
  ['float32', 'float32'],
  ['bfloat16', 'float32'],
  ['float16', 'bfloat16'],
  ['float32', 'float16'],
];

const HEADER_BYTES = 7; // tensors of a file need not be aligned

describe('loadFromFile', () => {
  const file = path.join(fs.mkdtempSync(path.join(os.tmpdir(), 'kvasir-load-')), 'data');
  afterAll(() => fs.rmSync(path.dirname(file), { recursive: true }));

  /** Runs `body` with a file of a header and these elements. */
  async function withFile(elements: NodeJS.TypedArray, body: (source: (dtype: DType, shape: readonly number[], layout: CopyLayout) => FileTensor) => Promise<void>): Promise<void> {
    const bytes = Buffer.from(elements.buffer, elements.byteOffset, elements.byteLength);
    fs.writeFileSync(file, Buffer.concat([Buffer.alloc(HEADER_BYTES), bytes]));
    const fd = fs.openSync(file, 'r');
    try {
      await body((dtype, shape, { strides, offset }) => ({ fd, byteOffset: HEADER_BYTES + offset * elements.BYTES_PER_ELEMENT, dtype, shape, strides }));
    } finally {
      fs.closeSync(fd);
    }
  }

  const emptyView = (bench: OpBench, dtype: DType, shape: readonly number[], layout: CopyLayout): [Tensor, Tensor] => {
    const base = bench.poisoned(dtype, [storageElements(shape, layout)]);
    return [base, bench.view(base, layout.offset, shape, layout.strides)];
  };

  describe.each(TYPES)('%s to %s', (from, to) => {
    it.each(CASES.map((c) => [c.name, c] as const))('%s', async (_name, c) => {
      const bench = new OpBench();
      const values = roundTo(from, randomValues(storageElements(c.shape, c.file), 1));
      const [base, out] = emptyView(bench, to, c.shape, c.out);
      await bench.device.synchronize(); // a load is ordered with later work by a fence only
      await withFile(encode(from, values), async (source) => {
        loadFromFile(out, source(from, c.shape, c.file));
        await bench.device.synchronize();
      });
      const expected = new Float64Array(base.numel).fill(NaN);
      const [fromIndices, toIndices] = [elementIndices(c.shape, c.file), elementIndices(c.shape, c.out)];
      const converted = roundTo(to, values);
      toIndices.forEach((at, i) => (expected[at] = converted[fromIndices[i]!]!));
      expect(await bench.values(base)).toEqual(expected);
      await bench.close();
    });
  });

  it.each([
    ['a whole matrix', [4, 6], [6, 1], 24],
    ['columns, without those of others', [1000, 3], [7, 1], 3000],
    ['many short rows with the gaps between them', [1024, 3], [7, 1], 1023 * 7 + 3],
    ['many longer rows without them', [1024, 128], [130, 1], 1024 * 128],
    ['two matrices of columns', [2, 10, 3], [70, 7, 1], 60],
    ['nothing', [0, 3], [7, 1], 0],
  ])('says how much it reads: %s', async (_name, shape, strides, elements) => {
    const bench = new OpBench();
    const layout = dense(strides);
    const out = bench.poisoned('float32', shape);
    await withFile(encode('bfloat16', new Float64Array(storageElements(shape, layout))), async (source) => {
      expect(loadFromFile(out, source('bfloat16', shape, layout))).toBe(2 * elements);
      await bench.device.synchronize();
    });
    await bench.close();
  });

  it('reads one long row in pieces', async () => {
    const bench = new OpBench();
    const count = 3_000_001;
    const values = Int32Array.from({ length: count }, (_, i) => Math.imul(i, 2654435761));
    const out = bench.poisoned('int32', [count]);
    await withFile(values, async (source) => {
      loadFromFile(out, source('int32', [count], dense([1])));
      await bench.device.synchronize();
    });
    expect(Buffer.compare(Buffer.from((await out.read()).buffer), Buffer.from(values.buffer))).toBe(0);
    await bench.close();
  });

  it('reports a file that is too short at the next fence, and works afterwards', async () => {
    const bench = new OpBench();
    const out = bench.poisoned('float32', [10, 10]);
    await withFile(encode('float32', randomValues(60, 1)), async (source) => {
      loadFromFile(out, source('float32', [10, 10], dense([10, 1])));
      await expect(bench.device.synchronize()).rejects.toMatchObject({ code: 'ERR_KVASIR_CHECKPOINT' });
      const part = bench.view(out, 0, [6, 10], [10, 1]);
      loadFromFile(part, source('float32', [6, 10], dense([10, 1])));
      await bench.device.synchronize();
      expect(await bench.values(part)).toEqual(roundTo('float32', randomValues(60, 1)));
    });
    await bench.close();
  });

  it('refuses other dims', async () => {
    const bench = new OpBench();
    const out = bench.poisoned('float32', [4, 4]);
    await withFile(encode('float32', randomValues(16, 1)), async (source) => {
      const failing = (fn: () => void): void => expect(fn).toThrow(expect.objectContaining({ code: 'ERR_KVASIR_TENSOR' }));
      failing(() => loadFromFile(out, source('float32', [16], dense([1]))));
      failing(() => loadFromFile(out, source('int32', [4, 4], dense([4, 1]))));
    });
    await bench.close();
  });
});
