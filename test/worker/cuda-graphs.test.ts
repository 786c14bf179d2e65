import type { Device } from '../../lib/tensor/device';
import { Tensor } from '../../lib/tensor/tensor';
import { CudaGraphRunner, cudaGraphSizes } from '../../lib/worker/cuda-graphs';

/** A device that writes down what is asked of it. */
class FakeDevice {
  readonly log: string[] = [];
  failAtEnd = false;
  private next = 0;

  beginCapture(): void {
    this.log.push('begin');
  }

  endCapture(): number {
    this.log.push('end');
    if (this.failAtEnd) throw new Error('the capture broke');
    return this.next++;
  }

  discardCapture(): void {
    this.log.push('discard');
  }

  launchGraph(graph: number): void {
    this.log.push(`launch ${graph}`);
  }

  destroyGraph(graph: number): void {
    this.log.push(`destroy ${graph}`);
  }
}

let device: FakeDevice;
let runner: CudaGraphRunner;
let result: Tensor;

beforeEach(() => {
  device = new FakeDevice();
  runner = new CudaGraphRunner(device as unknown as Device, [1, 4]);
  result = Tensor.view(null, 'float32', 0, [4, 2], [2, 1]);
});
afterEach(() => result.dispose());

const body = (rows: number) => (): Tensor => {
  device.log.push(`run ${rows}`);
  result.rebind(null, 0, [rows, 2], [2, 1]);
  return result;
};

describe('cudaGraphSizes', () => {
  it.each([
    [1, [1]],
    [3, [1, 2, 3]],
    [16, [1, 2, 4, 8, 16]],
    [20, [1, 2, 4, 8, 16, 20]],
  ])('up to %i requests: %j', (most, sizes) => {
    expect(cudaGraphSizes(most)).toEqual(sizes);
  });

  it('end at 256', () => {
    expect(cudaGraphSizes(1000)).toEqual(cudaGraphSizes(256));
    expect(cudaGraphSizes(1000).at(-1)).toBe(256);
  });
});

describe('CudaGraphRunner', () => {
  it('runs a size, captures it, then launches it, with the shape of the size', () => {
    for (const size of [4, 4, 1, 4, 1]) expect(runner.run(size, body(size)).shape).toEqual([size, 2]);
    expect(device.log).toEqual(['run 4', 'begin', 'run 4', 'end', 'launch 0', 'run 1', 'launch 0', 'begin', 'run 1', 'end', 'launch 1']);
    expect([runner.paddedSize(1), runner.paddedSize(2), runner.paddedSize(5)]).toEqual([1, 4, null]);
    runner.dispose();
    expect(device.log.slice(-2)).toEqual(['destroy 0', 'destroy 1']);
  });

  it('captures what the last step ran when it is told to, and launches it from its second time on', () => {
    runner.run(4, body(4));
    runner.captureLast();
    runner.captureLast();
    expect(device.log).toEqual(['run 4', 'begin', 'run 4', 'end']);
    expect(runner.run(4, body(4)).shape).toEqual([4, 2]);
    runner.captureLast();
    expect(device.log.slice(4)).toEqual(['launch 0']);
    runner.dispose();
  });

  it('an error in the body is what is heard, and the capture is over', () => {
    runner.run(4, body(4));
    device.log.length = 0;
    device.failAtEnd = true;
    const broken = new Error('the step broke');
    expect(() => runner.run(4, () => { throw broken; })).toThrow(broken);
    expect(device.log).toEqual(['begin', 'discard']);
    expect(() => runner.run(4, body(4))).toThrow('the capture broke');
    device.failAtEnd = false;
    runner.run(4, body(4));
    expect(device.log.slice(-4)).toEqual(['begin', 'run 4', 'end', 'launch 0']);
    runner.dispose();
    expect(device.log.at(-1)).toBe('destroy 0');
  });
});
