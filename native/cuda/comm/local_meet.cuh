// How blocks of the same number, one of each rank's kernel, hand data over to each other.
//
// A round: each block writes its data into its own slice, raises its flag to the number of the round, waits for the flags of the others,
// then reads their slices. Rounds are counted in device memory for as long as the group lives, so that a graph can be replayed. Slices
// alternate between two halves: a block that starts round r + 1 knows that all others started r, and so have read what r - 1 left.
#pragma once

#include <cuda_runtime.h>

#include "cuda/comm/local_kernels.h"

namespace kvasir::cuda::local {

__device__ __forceinline__ uint32_t loadAcquire(const uint32_t* p) {
  uint32_t value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(p) : "memory");
  return value;
}

__device__ __forceinline__ void storeRelease(uint32_t* p, uint32_t value) { asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(value) : "memory"); }

__device__ __forceinline__ uint64_t nanoseconds() {
  uint64_t now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  return now;
}

__device__ __forceinline__ char* slice(const Group& group, int rank, uint32_t round) {
  return group.data[rank] + ((round & 1) * kBlocks + blockIdx.x) * kSliceBytes;
}

// False if the group is lost, or is so now because the flag does not rise in time.
__device__ __forceinline__ bool awaitFlag(const Group& group, const uint32_t* flag, uint32_t round) {
  uint64_t start = 0;
  for (uint32_t polls = 1; static_cast<int32_t>(loadAcquire(flag) - round) < 0; ++polls) {
    if (polls % 256 != 0) continue;  // the other rank is late: what follows looks across the bus
    if (group.lost[0] != 0) return false;
    const uint64_t now = nanoseconds();
    if (start == 0) start = now;
    if (now - start > group.timeoutNs) {
      group.lost[1 + group.rank] = 1;
      __threadfence_system();
      group.lost[0] = 1;
      __threadfence_system();
      return false;
    }
    __nanosleep(200);
  }
  return true;
}

// All threads of the block call it after writing their part of the slice. False: the group is lost, and the kernel ends.
__device__ __forceinline__ bool meet(const Group& group, uint32_t round) {
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();  // what the other threads wrote
    storeRelease(group.flags[group.rank] + blockIdx.x * kFlagStride, round);
  }
  bool good = true;
  if (threadIdx.x < group.size) good = awaitFlag(group, group.flags[threadIdx.x] + blockIdx.x * kFlagStride, round);
  return __syncthreads_and(good) != 0;
}

// n items in `rounds` rounds of gridDim.x x chunk: stage(slice, begin, count) writes items [begin, begin + count) to this rank's slice,
// take(round, begin, count) reads them from all. count may be 0.
template <class Stage, class Take>
__device__ __forceinline__ void exchange(const Group& group, int64_t n, int64_t chunk, int rounds, Stage&& stage, Take&& take) {
  uint32_t round = group.rounds[blockIdx.x];
  for (int i = 0; i < rounds; ++i) {
    const int64_t begin = (int64_t{i} * gridDim.x + blockIdx.x) * chunk;
    const int64_t left = n - begin, count = left < 0 ? 0 : left < chunk ? left : chunk;
    ++round;
    stage(slice(group, group.rank, round), begin, count);
    if (!meet(group, round)) return;
    take(round, begin, count);
  }
  if (threadIdx.x == 0) group.rounds[blockIdx.x] = round;  // every thread read it before the first meet()
}

}  // namespace kvasir::cuda::local
