import { copyInto, fill, fillRandom } from '../ops/copy';
import { contiguousStrides, Tensor } from '../tensor/tensor';
import type { Parameter } from './parameter';

const FLOATING = new Set(['float32', 'float16', 'bfloat16']);

/** Values that keep activations in range: matrices uniform with variance 1 / inputs, norms one, biases zero, packed numbers random. */
export function fillDummy(param: Parameter, seed: number): void {
  if (param.isLoaded) return;
  param.materialize();
  if (param.dummy) param.dummy(param.tensor);
  else if (!FLOATING.has(param.dtype)) fillRandomBytes(param.tensor, seed);
  else if (param.shape.length < 2) fill(param.tensor, param.name.endsWith('bias') ? 0 : 1);
  else fillRandom(param.tensor, seed, Math.sqrt(3 / param.shape[param.shape.length - 1]!));
  param.finishLoading();
}

/** Bytes written from here; the rest of a tensor repeats them. */
const PATTERN_BYTES = 1 << 16;

/** Random bytes, the same for the same seed. As float8_e4m3 they are numbers below 2. */
function fillRandomBytes(tensor: Tensor, seed: number): void {
  const mask = tensor.dtype === 'float8_e4m3' ? 0xbf : 0xff; // without the highest bit of the exponent
  const elementBytes = tensor.dtype === 'int32' ? 4 : tensor.dtype === 'int64' ? 8 : 1;
  const bytes = tensor.numel * elementBytes;
  const pattern = new Uint8Array(Math.min(PATTERN_BYTES, bytes));
  let state = seed >>> 0;
  for (let i = 0; i < pattern.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0; // Knuth, TAOCP 2, 3.3.4
    pattern[i] = (state >>> 24) & mask;
  }
  const part = (start: number, length: number): Tensor => Tensor.view(tensor.storage, 'uint8', start, [length], contiguousStrides([length]));
  const using = (view: Tensor, work: (view: Tensor) => void): void => {
    work(view);
    view.dispose();
  };
  using(part(0, pattern.length), (first) => first.write(pattern));
  for (let filled = pattern.length; filled < bytes; filled *= 2) {
    const length = Math.min(filled, bytes - filled);
    using(part(0, length), (from) => using(part(filled, length), (to) => copyInto(to, from)));
  }
}
