import { gelu, geluAndMul, geluTanh, geluTanhAndMul, relu, silu, siluAndMul } from '../ops/activation';
import type { Tensor } from '../tensor/tensor';
import { KvasirError } from '../utils/errors';

/** Gated activations by their name in config.json (hidden_act): [numTokens, 2 * size] -> [numTokens, size]. */
const GATED: Readonly<Record<string, (x: Tensor) => Tensor>> = {
  silu: siluAndMul,
  swish: siluAndMul,
  gelu: geluAndMul,
  gelu_pytorch_tanh: geluTanhAndMul,
  gelu_new: geluTanhAndMul,
};

/**
 * act(x[:, :size]) * x[:, size:] for an activation name of config.json.
 * @throws KvasirError ERR_KVASIR_UNSUPPORTED
 */
export function gatedActivation(name: string): (x: Tensor) => Tensor {
  const act = Object.hasOwn(GATED, name) ? GATED[name] : undefined;
  if (!act) throw new KvasirError('ERR_KVASIR_UNSUPPORTED', `hidden_act "${name}" is not supported with a gated MLP, expected one of ${Object.keys(GATED).join(', ')}`);
  return act;
}

/** Activations of MLPs without a gate by their name in config.json (activation_function, hidden_act): [numTokens, size] -> the same shape. */
const PLAIN: Readonly<Record<string, (x: Tensor) => Tensor>> = {
  silu,
  swish: silu,
  gelu,
  gelu_pytorch_tanh: geluTanh,
  gelu_new: geluTanh,
  gelu_fast: geluTanh,
  relu,
};

/**
 * The activation of that name (vllm get_act_fn).
 * @throws KvasirError ERR_KVASIR_UNSUPPORTED
 */
export function getActFn(name: string): (x: Tensor) => Tensor {
  const act = Object.hasOwn(PLAIN, name) ? PLAIN[name] : undefined;
  if (!act) throw new KvasirError('ERR_KVASIR_UNSUPPORTED', `activation "${name}" is not supported, expected one of ${Object.keys(PLAIN).join(', ')}`);
  return act;
}
