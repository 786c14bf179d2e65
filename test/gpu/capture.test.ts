import { scatterElements } from '../../lib/ops/copy';
import { samplingMask } from '../../lib/ops/sampling';
import { Device, liveStorages } from '../../lib/tensor/device';
import { inScope, TemporaryScope } from '../../lib/tensor/scope';
import type { Tensor } from '../../lib/tensor/tensor';
import { expectCode } from '../fixtures/expect-error';
import { describeGpu } from '../fixtures/gpu';

describeGpu('capture of CUDA graphs', () => {
  let device: Device;
  let scope: TemporaryScope;

  beforeEach(() => {
    device = Device.create('cuda', 1);
    scope = new TemporaryScope(device);
  });
  afterEach(async () => {
    scope.dispose();
    await device.close();
    expect(liveStorages().count).toBe(0);
  });

  const run = (body: () => void): void => inScope(scope, body);

  function capture(body: () => void): number {
    device.beginCapture();
    run(body);
    return device.endCapture();
  }

  function ints(values: ArrayLike<number>): Tensor {
    const tensor = inScope(scope, () => scope.allocate([values.length], 'int32'));
    tensor.write(Int32Array.from(values));
    return tensor;
  }

  /** A row of logits, and an op on it that needs as much scratch memory as the row has. */
  function maskOf(vocab: number): { logits: Tensor; reset: () => void; apply: () => void; kept: () => Promise<number[]> } {
    const logits = inScope(scope, () => scope.allocate([1, vocab], 'float32'));
    const ids = ints([3, 5, vocab - 1]);
    const reset = (): void => logits.write(Float32Array.from({ length: vocab }, (_, i) => i + 1));
    const kept = async (): Promise<number[]> => Array.from((await logits.read()) as Float32Array).flatMap((v, i) => (v === i + 1 ? [i] : []));
    reset();
    return { logits, reset, apply: () => run(() => samplingMask(logits, 0, ids, true)), kept };
  }

  it('a graph says what it is made of', () => {
    const [out, indices, values] = [ints([0, 0]), ints([1, 0]), ints([7, 8])];
    const graph = capture(() => {
      for (let i = 0; i < 3; i++) scatterElements(out, indices, values);
    });
    expect(device.graphInfo(graph)).toEqual({ nodes: 3, kernels: 3, copies: 0, memsets: 0, others: 0, edges: 2, early: 0, straightLine: true });
    device.destroyGraph(graph);
  });

  it('scratch memory that a graph uses stays its own when more is needed', async () => {
    const small = maskOf(1000);
    small.apply();
    const graph = capture(small.apply);
    maskOf(300_000).apply(); // another address from here on
    const others = Array.from({ length: 8 }, () => ints(new Int32Array(1000).fill(-1))); // would take memory that was given back
    small.reset();
    device.launchGraph(graph);
    expect(await small.kept()).toEqual([3, 5, 999]);
    for (const other of others) expect(await other.read()).toEqual(new Int32Array(1000).fill(-1));
    device.destroyGraph(graph);
    small.reset();
    small.apply();
    expect(await small.kept()).toEqual([3, 5, 999]);
  });

  it('scratch memory cannot grow in a capture, and nothing goes up or down; a discarded capture leaves the stream usable', async () => {
    const large = maskOf(200_000);
    const small = maskOf(1000);
    small.apply();
    await small.kept();
    device.beginCapture();
    await expectCode('ERR_KVASIR_NATIVE', () => large.apply());
    await expectCode('ERR_KVASIR_NATIVE', () => small.reset());
    await expectCode('ERR_KVASIR_NATIVE', () => device.beginCapture());
    device.discardCapture();
    device.discardCapture(); // does nothing more
    await expectCode('ERR_KVASIR_NATIVE', () => device.endCapture());
    large.apply();
    expect(await large.kept()).toEqual([3, 5, 199_999]);
    const graph = capture(large.apply);
    large.reset();
    device.launchGraph(graph);
    expect(await large.kept()).toEqual([3, 5, 199_999]);
    device.destroyGraph(graph);
    await expectCode('ERR_KVASIR_DISPOSED', () => device.launchGraph(graph));
  });
});
