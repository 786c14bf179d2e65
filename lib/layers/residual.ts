import { add as addOp } from '../ops/norm';
import type { Tensor } from '../tensor/tensor';

/** x + y, both [numTokens, hiddenSize]: sums that no norm follows, which would add by itself (`forwardResidual`). */
export function add(x: Tensor, y: Tensor): Tensor {
  return addOp(x, y);
}
