import { loadBinding, wrapNativeError } from '../binding/load';
import type { NativeOps, OptionalRow, Row } from '../binding/native';
import type { DType } from '../config/vllm';
import { tensorScope } from '../tensor/scope';
import { Tensor } from '../tensor/tensor';

/** The arguments of an op as TypeScript code gives them: tensors for rows, null for an absent optional tensor. */
type OpArguments<P extends unknown[]> = {
  [I in keyof P]: number extends P[I] ? P[I] : [P[I]] extends [Row] ? Tensor : [P[I]] extends [OptionalRow] ? Tensor | null : P[I];
};

/**
 * The one crossing to the kernels. In eager mode the op is queued on the stream of its first tensor; while a forward
 * pass is planned it is only recorded, so that the lifetime of its tensors is known.
 */
export function call<K extends keyof NativeOps>(op: K, ...args: OpArguments<Parameters<NativeOps[K]>>): void {
  const scope = tensorScope();
  const values = args as unknown[];
  if (scope.planning) {
    scope.touch(values.filter((value): value is Tensor => value instanceof Tensor));
    scope.ops++;
    return;
  }
  scope.ops++;
  for (let i = 0; i < values.length; i++) {
    const value = values[i];
    if (value instanceof Tensor) values[i] = value.row;
    else if (value === null) values[i] = -1;
  }
  try {
    (loadBinding()[op] as (...rows: unknown[]) => void)(...values);
  } catch (error) {
    throw wrapNativeError(error);
  }
}

/** Memory for an op's output, from the current scope. */
export function output(shape: readonly number[], dtype: DType): Tensor {
  return tensorScope().allocate(shape, dtype);
}
