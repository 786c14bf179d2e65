// Peephole fusion: the stream keeps the last op back when the op after it often continues it, and runs both as one kernel then. Anything
// else that is asked of the stream launches the op that is kept back first (CudaStream::flush), so that nobody can see the difference.
//
// To be kept back an op must be fully described by what is stored here: pointers, shapes, scalars. A joined kernel must store everything
// the two ops would have stored, with the same bits, and must refuse (by overlap.h) where the second op writes what the first still reads.
#pragma once

#include <optional>
#include <variant>

#include "core/tensor.h"
#include "cuda/gemm/kernels.h"

namespace kvasir::cuda {

class CudaStream;

// rope.cu; joined by kvCacheWrite of the same k to a cache of its dtype.
struct PendingRope {
  // RMSNorm of every head before (normRope).
  struct Norms {
    Tensor qWeight, kWeight;
    float eps;
    bool gemma;
  };
  Tensor positions, q, k, cosSin;
  bool isNeox;
  std::optional<Norms> norms;
};

// gemm/linear.cc; a linear layer of one or two tokens, joined by a gated activation of its output.
struct PendingGemv {
  GemmArgs args;
  DType dtype;
  int warps;
};

using Pending = std::variant<std::monostate, PendingRope, PendingGemv>;

// Each launches its op by itself, through CudaStream::launch.
void run(CudaStream& stream, const PendingRope& op);
void run(CudaStream& stream, const PendingGemv& op);

}  // namespace kvasir::cuda
