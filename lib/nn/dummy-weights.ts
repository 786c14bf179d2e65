import { fill, fillRandom } from '../ops/copy';
import type { Parameter } from './parameter';

/** Values that keep activations in range: matrices uniform with variance 1 / inputs, norms one, biases zero. */
export function fillDummy(param: Parameter, seed: number): void {
  if (param.shape.length < 2) fill(param.tensor, param.name.endsWith('bias') ? 0 : 1);
  else fillRandom(param.tensor, seed, Math.sqrt(3 / param.shape[param.shape.length - 1]!));
  param.finishLoading();
}
