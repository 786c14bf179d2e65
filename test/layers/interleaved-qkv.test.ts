import { deinterleaveQkv } from '../../lib/layers/interleaved-qkv';
import { QKVParallelLinear } from '../../lib/layers/merged-linear';
import { loadWeights } from '../../lib/nn/load-weights';
import { Device, liveStorages } from '../../lib/tensor/device';
import { inScope, TemporaryScope } from '../../lib/tensor/scope';
import { ArrayWeight } from '../fixtures/array-weight';
import { makeVllmConfig } from '../fixtures/vllm-config';

const options = { hiddenSize: 4, headDim: 2, totalNumHeads: 4, bias: true, partNames: ['query_key_value', 'query_key_value', 'query_key_value'] };

describe('query_key_value of GPT-NeoX and BLOOM', () => {
  it.each([1, 2, 4])('gives each of %d ranks q, k and v of its own heads', async (tensorParallelSize) => {
    const device = Device.create('cpu', 1);
    // Row (head, part, i) of the bias says where it is from.
    const origin = Float32Array.from({ length: 24 }, (_, row) => 100 * (Math.floor(row / 2) % 3) + 10 * Math.floor(row / 6) + (row % 2));
    const checkpoint = [ArrayWeight.of('a.query_key_value.bias', [24], origin), ArrayWeight.counting('a.query_key_value.weight', [24, 4])];
    const heads = 4 / tensorParallelSize;
    const scope = new TemporaryScope(device);
    for (let tpRank = 0; tpRank < tensorParallelSize; tpRank++) {
      const layer = new QKVParallelLinear(makeVllmConfig({ parallel: { tensorParallelSize, tpRank } }), options, 'a.query_key_value');
      for (const param of layer.parameters()) param.allocate(device);
      inScope(scope, () => loadWeights(layer, deinterleaveQkv(checkpoint, 4)));
      const expected = [0, 1, 2].flatMap((part) => Array.from({ length: heads * 2 }, (_, i) => 100 * part + 10 * (tpRank * heads + (i >> 1)) + (i & 1)));
      expect(Array.from((await layer.bias!.tensor.read()) as Float32Array)).toEqual(expected);
      for (const param of layer.parameters()) param.dispose();
    }
    scope.dispose();
    await device.close();
    expect(liveStorages().count).toBe(0);
  });

  it('turns the tensors of quantized checkpoints along their outputs, and leaves those without', () => {
    const shapes: Record<string, number[]> = { qweight: [1, 24], qzeros: [2, 12], scales: [2, 24], weight_scale: [24, 1], g_idx: [8], input_scale: [1], weight_shape: [2] };
    const weights = Object.entries(shapes).map(([name, shape]) => ArrayWeight.counting(`a.query_key_value.${name}`, shape));
    const turned = [...deinterleaveQkv(weights, 4)].map((weight, i) => (weight === weights[i] ? 'as it is' : 'turned'));
    expect(turned).toEqual(['turned', 'turned', 'turned', 'turned', 'as it is', 'as it is', 'as it is']);
    const others = [ArrayWeight.counting('a.dense.weight', [5, 5]), ArrayWeight.counting('my_query_key_value.weight', [5])];
    expect([...deinterleaveQkv(others, 4)]).toEqual(others);
  });
});
