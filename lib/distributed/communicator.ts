import type { ParallelConfig } from '../config/vllm';
import type { Tensor } from '../tensor/tensor';
import { KvasirError } from '../utils/errors';

/** Collectives among the ranks of a tensor-parallel group. Every rank calls the same ones in the same order. */
export interface Communicator {
  readonly rank: number;
  readonly size: number;
  /** Sum over ranks, in place; returns x. */
  allReduce(x: Tensor): Tensor;
  /** Concatenation of every rank's x along the last dimension. */
  allGather(x: Tensor): Tensor;
}

const groups = new WeakMap<ParallelConfig, Communicator>();

/** Attaches the group that the ranks of this configuration talk in. */
export function setTensorParallelGroup(parallel: ParallelConfig, communicator: Communicator): void {
  groups.set(parallel, communicator);
}

function group(parallel: ParallelConfig): Communicator {
  const communicator = groups.get(parallel);
  if (!communicator) throw new KvasirError('ERR_KVASIR_UNSUPPORTED', `tensorParallelSize ${parallel.tensorParallelSize} needs a communicator, and none is attached`);
  return communicator;
}

/** Sum over the tensor-parallel ranks; x itself for one rank. */
export function tensorParallelAllReduce(parallel: ParallelConfig, x: Tensor): Tensor {
  return parallel.tensorParallelSize === 1 ? x : group(parallel).allReduce(x);
}

/** Concatenation over the tensor-parallel ranks along the last dimension; x itself for one rank. */
export function tensorParallelAllGather(parallel: ParallelConfig, x: Tensor): Tensor {
  return parallel.tensorParallelSize === 1 ? x : group(parallel).allGather(x);
}
