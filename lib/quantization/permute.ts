import { cast, copyInto, gatherRows } from '../ops/copy';
import { output } from '../ops/run';
import { tensorScope } from '../tensor/scope';
import type { Tensor } from '../tensor/tensor';

/** A view with rows and columns exchanged; no copy. */
export function transposed(x: Tensor): Tensor {
  return tensorScope().view(x, x.byteOffset, [x.size(1), x.size(0)], [x.strides[1]!, x.strides[0]!]);
}

/** x[:, order]: x [numTokens, width], order int32 [width]. */
export function gatherColumns(x: Tensor, order: Tensor): Tensor {
  const columns = output([x.size(1), x.size(0)], x.dtype);
  copyInto(columns, transposed(x));
  return cast(transposed(gatherRows(columns, order)), x.dtype);
}
