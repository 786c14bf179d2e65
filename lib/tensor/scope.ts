import type { DType } from '../config/vllm';
import { KvasirError } from '../utils/errors';
import type { Device } from './device';
import { Tensor } from './tensor';

/**
 * Where the tensors come from that ops and view functions make: the memory behind op outputs, and who gives rows back.
 * Exactly one scope is current while synchronous code of a forward pass (or of a test) runs.
 */
export interface TensorScope {
  /** True while only shapes are wanted: ops are recorded with {@link touch}, not run. */
  readonly planning: boolean;
  /** Ops called in the scope so far; counted by ops/run.ts. */
  ops: number;
  allocate(shape: readonly number[], dtype: DType): Tensor;
  view(base: Tensor, byteOffset: number, shape: readonly number[], strides: readonly number[]): Tensor;
  /** Op number {@link ops} was recorded, which uses these tensors. Called only while planning. */
  touch(tensors: readonly Tensor[]): void;
}

let current: TensorScope | null = null;

/** The scope of the code that is running. */
export function tensorScope(): TensorScope {
  if (!current) throw new KvasirError('ERR_KVASIR_PLAN', 'ops run inside a forward pass or withTensors(); there is no current scope');
  return current;
}

/** Runs synchronous code inside a scope. */
export function inScope<T>(scope: TensorScope, fn: () => T): T {
  const outer = current;
  current = scope;
  try {
    return fn();
  } finally {
    current = outer;
  }
}

/** A scope that gives every op output its own memory and frees all of it in {@link dispose}: loading weights, tests. */
export class TemporaryScope implements TensorScope {
  readonly planning = false;
  ops = 0;
  private readonly owned: Tensor[] = [];
  private readonly views: Tensor[] = [];

  constructor(private readonly device: Device) {}

  allocate(shape: readonly number[], dtype: DType): Tensor {
    const tensor = this.device.empty(shape, dtype);
    this.owned.push(tensor);
    return tensor;
  }

  view(base: Tensor, byteOffset: number, shape: readonly number[], strides: readonly number[]): Tensor {
    const tensor = Tensor.view(base.storage, base.dtype, byteOffset, shape, strides);
    this.views.push(tensor);
    return tensor;
  }

  touch(): void {
    // only called while planning
  }

  /** Takes a tensor out: the caller owns it now. */
  keep(tensor: Tensor): Tensor {
    const at = this.owned.indexOf(tensor);
    if (at >= 0) this.owned.splice(at, 1);
    return tensor;
  }

  dispose(): void {
    for (const view of this.views.splice(0)) view.dispose();
    for (const tensor of this.owned.splice(0)) tensor.disposeStorage();
  }
}

/**
 * Runs `fn` with a {@link TemporaryScope}: op outputs live until it settles. Ops must be called synchronously inside
 * `scope(() => ...)`.
 */
export async function withTensors<T>(device: Device, fn: (scope: <R>(body: () => R) => R, temporary: TemporaryScope) => Promise<T> | T): Promise<T> {
  const temporary = new TemporaryScope(device);
  try {
    return await fn((body) => inScope(temporary, body), temporary);
  } finally {
    temporary.dispose();
  }
}
