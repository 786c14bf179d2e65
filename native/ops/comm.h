// Collectives among the ranks of a tensor-parallel group: core/communicator.h with its arguments checked. All tensors are contiguous.
#pragma once

#include "core/communicator.h"

namespace kvasir::ops {

// x becomes the sum over the ranks, the same bits on every rank: added in float32, rounded once. x: any shape, a floating dtype.
void allReduce(Stream& stream, Communicator& communicator, const Tensor& x);

// out: the x of all ranks behind each other, by rank: size times as many elements. Any dtype.
void allGather(Stream& stream, Communicator& communicator, const Tensor& out, const Tensor& x);

// x: size pieces behind each other, each as large as out; out becomes the sum over the ranks of their piece number `rank`. Floating dtype.
void reduceScatter(Stream& stream, Communicator& communicator, const Tensor& out, const Tensor& x);

// x becomes rank `root`'s x. Any dtype.
void broadcast(Stream& stream, Communicator& communicator, const Tensor& x, int64_t root);

}  // namespace kvasir::ops
