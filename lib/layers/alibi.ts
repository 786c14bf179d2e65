import type { VllmConfig } from '../config/vllm';
import { ConstantBuffer } from '../nn/parameter';
import { rankSpan } from './shard';

/**
 * Slopes of attention with linear biases for each head (Press et al., 2022; vllm _get_alibi_slopes): 2^(-8 / n), 2^(-16 / n), .. for a
 * power of two n; other numbers take those of the power below, then every second one of the power above.
 */
export function alibiSlopes(numHeads: number): Float32Array {
  const below = 2 ** Math.floor(Math.log2(numHeads));
  return Float32Array.from({ length: numHeads }, (_, head) =>
    head < below ? 2 ** ((-8 * (head + 1)) / below) : 2 ** ((-4 * (2 * (head - below) + 1)) / below),
  );
}

/** The slopes of this rank's heads: float32 [numHeads]. */
export function alibiSlopesBuffer(vllmConfig: VllmConfig, totalNumHeads: number): ConstantBuffer {
  const { tensorParallelSize, tpRank } = vllmConfig.parallel;
  const { start, size } = rankSpan(totalNumHeads, tpRank, tensorParallelSize, 'ALiBi heads');
  return new ConstantBuffer([size], 'float32', () => alibiSlopes(totalNumHeads).subarray(start, start + size));
}
