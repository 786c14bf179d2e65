import { cast, fill, gatherRows } from '../../lib/ops/copy';
import { rmsNorm } from '../../lib/ops/norm';
import { ARENA_ALIGNMENT } from '../../lib/tensor/arena';
import { Device, liveStorages } from '../../lib/tensor/device';
import { tensorTable } from '../../lib/tensor/table';
import { contiguousStrides, Tensor } from '../../lib/tensor/tensor';
import { narrow, reshape, split } from '../../lib/tensor/views';
import { Workspace } from '../../lib/tensor/workspace';
import { expectCode } from '../fixtures/expect-error';

const WIDTH = 8;
const MAX_TOKENS = 6;
const EPS = 1e-5;
/** Uneven, so that every norm of a chain changes the values. */
const SCALE = Array.from({ length: WIDTH }, (_, j) => 1 + j / 2);

let device: Device;
let x: Tensor;
let weight: Tensor;

beforeEach(() => {
  device = Device.create('cpu', 1);
  x = device.empty([MAX_TOKENS, WIDTH], 'float32');
  weight = device.empty([WIDTH], 'float32');
  weight.write(Float32Array.from(SCALE));
});

afterEach(async () => {
  x.disposeStorage();
  weight.disposeStorage();
  await device.close();
  expect(liveStorages()).toEqual({ count: 0, bytes: 0 });
  expect(tensorTable().liveRows).toBe(0);
});

function setTokens(values: readonly (readonly number[])[]): void {
  x.rebind(x.storage, 0, [values.length, WIDTH], contiguousStrides([values.length, WIDTH]));
  if (values.length) x.write(Float32Array.from(values.flat()));
}

const tokens = (n: number, seed: number): number[][] => Array.from({ length: n }, (_, i) => Array.from({ length: WIDTH }, (_, j) => Math.sin(seed + i * WIDTH + j)));

function normOf(row: readonly number[]): number[] {
  const scale = 1 / Math.sqrt(row.reduce((sum, v) => sum + v * v, 0) / row.length + EPS);
  return row.map((v, j) => v * scale * SCALE[j]!);
}

/** Four norms one after the other, then a norm of the right half: six activations, of which two live at a time. */
function forward(): Tensor {
  let y = x;
  for (let i = 0; i < 4; i++) y = rmsNorm(y, weight, EPS);
  const [, right] = split(y, [WIDTH / 2, WIDTH / 2]) as [Tensor, Tensor];
  return rmsNorm(reshape(cast(right, 'float32'), [y.size(0), WIDTH / 2]), narrow(weight, 0, 0, WIDTH / 2), EPS);
}

function expected(values: readonly (readonly number[])[]): number[] {
  return values.flatMap((row) => {
    let y = [...row];
    for (let i = 0; i < 4; i++) y = normOf(y);
    return normOf(y.slice(WIDTH / 2));
  });
}

async function expectResult(result: Tensor, values: readonly (readonly number[])[]): Promise<void> {
  const actual = (await result.read()) as Float32Array;
  const want = expected(values);
  expect(actual).toHaveLength(want.length);
  want.forEach((v, i) => expect(actual[i]).toBeCloseTo(v, 4));
}

/** A workspace planned at the largest batch, with memory. */
function planned(fn: () => Tensor = forward): Workspace {
  const workspace = new Workspace();
  setTokens(tokens(MAX_TOKENS, 0));
  const before = liveStorages();
  workspace.plan(() => [fn()]);
  expect(liveStorages()).toEqual(before);
  workspace.materialize(device);
  expect(liveStorages()).toEqual({ count: before.count + 1, bytes: before.bytes + workspace.bytes });
  return workspace;
}

/** Fills the whole arena with NaN. */
function poison({ storage }: Tensor): void {
  const elements = storage!.bytes / 4;
  const whole = Tensor.view(storage, 'float32', 0, [elements], [1]);
  whole.write(new Float32Array(elements).fill(NaN));
  whole.dispose();
}

describe('Workspace', () => {
  it('gives right values at every batch up to the planned one, in memory that is reused and dirty', async () => {
    const workspace = planned();
    let result: Tensor | null = null;
    for (const n of [MAX_TOKENS, 1, 3, 6, 2]) {
      if (result) poison(result);
      const values = tokens(n, n);
      setTokens(values);
      result = workspace.run(forward);
      await expectResult(result, values);
    }
    workspace.dispose();
  });

  it('is smaller than the sum of its activations and makes the same tensors at the same place in every step', () => {
    const workspace = planned();
    expect(workspace.bytes).toBe(2 * ARENA_ALIGNMENT); // each of the six takes less than one aligned place
    const seen: Tensor[][] = [];
    for (const n of [MAX_TOKENS, 2, 5]) {
      setTokens(tokens(n, 0));
      const made: Tensor[] = [];
      const places: number[] = [];
      workspace.run(() => {
        let y = x;
        for (let i = 0; i < 4; i++) made.push((y = rmsNorm(y, weight, EPS)));
        const parts = split(y, [WIDTH / 2, WIDTH / 2]) as [Tensor, Tensor];
        const half = cast(parts[1], 'float32');
        const last = rmsNorm(reshape(half, [n, WIDTH / 2]), narrow(weight, 0, 0, WIDTH / 2), EPS);
        made.push(half, last);
      });
      places.push(...made.map((t) => t.byteOffset));
      seen.push(made);
      expect(places).toEqual(seen[0]!.map((t) => t.byteOffset));
      expect(made.map((t) => t.row)).toEqual(seen[0]!.map((t) => t.row));
      made.forEach((t, i) => expect(t).toBe(seen[0]![i]));
    }
    const offsets = new Set(seen[0]!.map((t) => t.byteOffset));
    expect(offsets.size).toBeLessThan(seen[0]!.length);
    workspace.dispose();
  });

  it('keeps what the planned code returned until the next run', async () => {
    const both = (): [Tensor, Tensor] => {
      const kept = rmsNorm(x, weight, EPS);
      let y = kept;
      for (let i = 0; i < 5; i++) y = rmsNorm(y, weight, EPS);
      return [narrow(kept, 0, 0, 1), y];
    };
    const workspace = new Workspace();
    setTokens(tokens(MAX_TOKENS, 0));
    workspace.plan(both);
    workspace.materialize(device);
    const values = tokens(2, 9);
    setTokens(values);
    const [kept] = workspace.run(both);
    const actual = (await kept.read()) as Float32Array;
    normOf(values[0]!).forEach((v, i) => expect(actual[i]).toBeCloseTo(v, 4));
    workspace.dispose();
  });

  it('runs an empty batch', async () => {
    const workspace = planned();
    setTokens([]);
    expect(await workspace.run(forward).read()).toHaveLength(0);
    workspace.dispose();
  });

  it.each<[string, () => unknown]>([
    ['an op more', () => (forward(), rmsNorm(x, weight, EPS))],
    ['an op less', () => rmsNorm(x, weight, EPS)],
    ['an op in place more', () => fill(forward(), 0)],
    ['another kind of tensor', () => reshape(x, [x.numel])],
    ['another dtype', () => cast(x, 'float16')],
  ])('refuses code that runs %s than was planned', async (_name, other) => {
    const workspace = planned();
    await expectCode('ERR_KVASIR_PLAN', () => workspace.run(other));
    const values = tokens(3, 4);
    setTokens(values);
    await expectResult(workspace.run(forward), values); // the workspace is still good
    workspace.dispose();
  });

  it('refuses a larger batch than was planned', async () => {
    const indices = device.empty([MAX_TOKENS + 1], 'int32');
    const gather = (): Tensor => gatherRows(x, indices);
    indices.rebind(indices.storage, 0, [MAX_TOKENS], [1]);
    const workspace = planned(gather);
    indices.rebind(indices.storage, 0, [MAX_TOKENS + 1], [1]);
    const error = await expectCode('ERR_KVASIR_PLAN', () => workspace.run(gather));
    expect(error.message).toContain(`${(MAX_TOKENS + 1) * WIDTH * 4} bytes, ${MAX_TOKENS * WIDTH * 4} were planned`);
    indices.disposeStorage();
    workspace.dispose();
  });

  it('refuses to be planned twice or run without memory', async () => {
    const workspace = new Workspace();
    setTokens(tokens(1, 0));
    workspace.plan(() => [forward()]);
    await expectCode('ERR_KVASIR_PLAN', () => workspace.plan(() => [forward()]));
    await expectCode('ERR_KVASIR_PLAN', () => workspace.run(forward));
    workspace.dispose();
  });

  it('shares the memory of another, which keeps it', async () => {
    const [large, small] = [planned(), new Workspace()];
    const half = (): Tensor => rmsNorm(x, weight, EPS);
    setTokens(tokens(MAX_TOKENS, 0));
    small.plan(() => [half()]);
    small.share(large);
    const values = tokens(3, 4);
    setTokens(values);
    const result = small.run(half);
    expect(result.storage).toBe(large.run(forward).storage);
    small.dispose();
    await expectResult(large.run(forward), values);
    large.dispose();
  });

  it('refuses to share memory that is too small or not there', async () => {
    const [large, small] = [new Workspace(), planned(() => rmsNorm(x, weight, EPS))];
    setTokens(tokens(MAX_TOKENS, 0));
    large.plan(() => [forward()]);
    const error = await expectCode('ERR_KVASIR_PLAN', () => large.share(small));
    expect(error.message).toBe(`a workspace of ${large.bytes} bytes cannot share the ${small.bytes} bytes that another one has`);
    await expectCode('ERR_KVASIR_PLAN', () => small.share(large));
    for (const workspace of [large, small]) workspace.dispose();
  });

  it('ops outside any scope are refused', async () => {
    await expectCode('ERR_KVASIR_PLAN', () => rmsNorm(x, weight, EPS));
  });
});
