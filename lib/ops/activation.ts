import type { Tensor } from '../tensor/tensor';
import { call, output } from './run';

type GatedOp = 'siluAndMul' | 'geluAndMul' | 'geluTanhAndMul';
type PlainOp = 'silu' | 'gelu' | 'geluTanh' | 'relu';

function gated(op: GatedOp, x: Tensor): Tensor {
  const out = output([x.size(0), Math.floor(x.size(1) / 2)], x.dtype);
  call(op, out, x);
  return out;
}

function plain(op: PlainOp, x: Tensor): Tensor {
  const out = output(x.shape, x.dtype);
  call(op, out, x);
  return out;
}

/** silu(x[:, :size]) * x[:, size:]. x [numTokens, 2 * size] (rows may lie apart), returns [numTokens, size]. */
export function siluAndMul(x: Tensor): Tensor {
  return gated('siluAndMul', x);
}

/** As {@link siluAndMul} with gelu, the exact form. */
export function geluAndMul(x: Tensor): Tensor {
  return gated('geluAndMul', x);
}

/** As {@link siluAndMul} with the tanh form of gelu. */
export function geluTanhAndMul(x: Tensor): Tensor {
  return gated('geluTanhAndMul', x);
}

/** x / (1 + exp(-x)). x [numTokens, size]. */
export function silu(x: Tensor): Tensor {
  return plain('silu', x);
}

/** x (1 + erf(x / sqrt 2)) / 2. x [numTokens, size]. */
export function gelu(x: Tensor): Tensor {
  return plain('gelu', x);
}

/** x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2. x [numTokens, size]. */
export function geluTanh(x: Tensor): Tensor {
  return plain('geluTanh', x);
}

/** max(x, 0). x [numTokens, size]. */
export function relu(x: Tensor): Tensor {
  return plain('relu', x);
}

/**
 * x * factor; the factor is rounded to the type of x before, as it is where it is a tensor of that type (Gemma's embeddings).
 * x [numTokens, size]; out may be x.
 */
export function scale(x: Tensor, factor: number, out = output(x.shape, x.dtype)): Tensor {
  call('scale', out, x, factor);
  return out;
}

/** cap * tanh(x / cap): bounds x softly. x [numTokens, size]; out may be x. */
export function softCap(x: Tensor, cap: number, out = output(x.shape, x.dtype)): Tensor {
  call('softCap', out, x, cap);
  return out;
}
