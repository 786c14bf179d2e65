// Collectives among ranks that share one device: kernels of different streams that meet through flags in device memory.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "core/dtype.h"
#include "cuda/comm/comm.h"

namespace kvasir::cuda::local {

// The kernels of all ranks must be on the device together, beside whatever else runs there: few blocks.
inline constexpr int kBlocks = 16;
inline constexpr int kThreads = 512;
inline constexpr int64_t kSliceBytes = 64 << 10;  // what a block hands over at a time
inline constexpr int64_t kDataBytes = 2 * kBlocks * kSliceBytes;
inline constexpr int kFlagStride = 32;  // flags lie 128 bytes apart

// What a kernel of rank `rank` knows of its group.
struct Group {
  char* data[kMaxLocalRanks];       // of each rank: [2][kBlocks][kSliceBytes]
  uint32_t* flags[kMaxLocalRanks];  // of each rank: [kBlocks][kFlagStride], the rounds for which its data is there
  uint32_t* rounds;                 // [kBlocks], the rounds this rank has done
  // On the host, [1 + size]: not zero when the group is lost; then, by rank, whether it was one that waited too long.
  volatile uint32_t* lost;
  uint64_t timeoutNs;
  int rank, size;
};

// Each of these has every rank do the same number of rounds in the same blocks: that depends on the sizes alone. dtype: float32, float16
// or bfloat16. Sizes count elements, or bytes where no dtype is given.
void allReduce(const Group& group, cudaStream_t stream, void* x, int64_t n, DType dtype);
// out: group.size pieces of `bytes`.
void allGather(const Group& group, cudaStream_t stream, void* out, const void* x, int64_t bytes);
// x: group.size pieces of n.
void reduceScatter(const Group& group, cudaStream_t stream, void* out, const void* x, int64_t n, DType dtype);
void broadcast(const Group& group, cudaStream_t stream, void* x, int64_t bytes, int root);

// Has the driver load all of them: a first launch may wait for the device.
void loadKernels();

}  // namespace kvasir::cuda::local
