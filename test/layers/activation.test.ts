import { getActFn } from '../../lib/layers/activation';
import { LayerNorm } from '../../lib/layers/norm';
import { Device, liveStorages } from '../../lib/tensor/device';
import { inScope, TemporaryScope } from '../../lib/tensor/scope';
import { ACTIVATION_CASES } from '../ops/cases/activation';
import { expectCode } from '../fixtures/expect-error';
import { makeVllmConfig } from '../fixtures/vllm-config';

let device: Device;
let scope: TemporaryScope;
beforeAll(() => {
  device = Device.create('cpu', 1);
  scope = new TemporaryScope(device);
});
afterAll(async () => {
  scope.dispose();
  await device.close();
  expect(liveStorages().count).toBe(0);
});

const INPUT = Float32Array.of(-3, -1, -0.25, 0, 0.5, 1, 2, 4);

function input(shape: readonly number[] = [1, INPUT.length]) {
  const x = scope.allocate(shape, 'float32');
  x.write(INPUT);
  return x;
}

describe('getActFn', () => {
  it.each([
    ['silu', 'silu'],
    ['swish', 'silu'],
    ['gelu', 'gelu'],
    ['gelu_new', 'geluTanh'],
    ['gelu_fast', 'geluTanh'],
    ['gelu_pytorch_tanh', 'geluTanh'],
    ['relu', 'relu'],
  ])('%s is %s', async (name, op) => {
    const { reference } = ACTIVATION_CASES.find((c) => c.name === op)!;
    const y = inScope(scope, () => getActFn(name)(input()));
    const values = (await y.read()) as Float32Array;
    values.forEach((value, i) => expect(value).toBeCloseTo(reference(INPUT[i]!), 5));
  });

  it.each(['snake', 'toString', ''])('"%s" is refused with the list of those that are supported', async (name) => {
    const error = await expectCode('ERR_KVASIR_UNSUPPORTED', () => getActFn(name));
    expect(error.message).toContain('gelu_new, gelu_fast, relu');
  });
});

describe('LayerNorm', () => {
  it('has a bias unless told otherwise', () => {
    const options = { hiddenSize: 4, eps: 1e-5 };
    expect(Array.from(new LayerNorm(makeVllmConfig(), options, 'n').parameters(), (p) => p.name)).toEqual(['n.weight', 'n.bias']);
    expect(Array.from(new LayerNorm(makeVllmConfig(), { ...options, bias: false }, 'n').parameters(), (p) => p.name)).toEqual(['n.weight']);
  });

  it.each([true, false])('adds to the residual stream in place and normalises the sum (bias %p)', async (bias) => {
    const norm = new LayerNorm(makeVllmConfig(), { hiddenSize: 4, eps: 1e-5, bias }, 'n');
    for (const param of norm.parameters()) param.allocate(device);
    norm.weight.tensor.write(Float32Array.of(1, 2, 3, 4));
    norm.bias?.tensor.write(Float32Array.of(10, 20, 30, 40));
    const [x, residual] = [input([2, 4]), input([2, 4])];
    const [first, stream] = inScope(scope, () => norm.forwardResidual(x, null));
    expect(stream).toBe(x);
    const [second, sum] = inScope(scope, () => norm.forwardResidual(x, residual));
    expect(sum).toBe(residual);
    expect(await residual.read()).toEqual(INPUT.map((v) => 2 * v));
    const [a, b] = (await Promise.all([first.read(), second.read()])) as [Float32Array, Float32Array];
    b.forEach((value, i) => expect(value).toBeCloseTo(a[i]!, 3)); // twice a row is normalised to the same
    const mean = -1.0625;
    const deviation = Math.sqrt([-3, -1, -0.25, 0].reduce((s, v) => s + (v - mean) ** 2, 0) / 4 + 1e-5);
    expect(a[0]).toBeCloseTo((-3 - mean) / deviation + (bias ? 10 : 0), 4);
    for (const param of norm.parameters()) param.dispose();
  });
});
