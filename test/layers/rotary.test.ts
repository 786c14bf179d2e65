import { RMSNorm } from '../../lib/layers/norm';
import { RotaryEmbedding } from '../../lib/layers/rotary';
import { expectCode } from '../fixtures/expect-error';
import { makeVllmConfig } from '../fixtures/vllm-config';
import { OpBench, randomValues } from '../ops/harness';

describe('RotaryEmbedding', () => {
  const norm = (eps: number, gemma = false): RMSNorm => new RMSNorm(makeVllmConfig(), { hiddenSize: 4, eps, gemma }, 'a.q_norm');

  it.each([
    ['queries alone', norm(1e-5), null],
    ['keys alone', null, norm(1e-5)],
    ['another eps for keys', norm(1e-5), norm(1e-6)],
    ["Gemma's norm for keys alone", norm(1e-5), norm(1e-5, true)],
  ])('does not normalise %s', async (_name, qNorm, kNorm) => {
    const bench = new OpBench();
    const rotary = new RotaryEmbedding(8, 4, 4, true, () => new Float32Array(32));
    const [q, k] = [bench.float('float32', [2, 8], randomValues(16, 1)), bench.float('float32', [2, 4], randomValues(8, 2))];
    const positions = bench.ints('int32', [2], [0, 1]);
    const error = await expectCode('ERR_KVASIR_LAYER', () => bench.run(() => rotary.forward(positions, q, k, qNorm, kNorm)));
    expect(error.message).toContain('norms of queries and keys with the same options');
    await bench.close();
  });
});
