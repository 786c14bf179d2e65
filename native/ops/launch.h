// Hands a checked op to the backend of its stream: KVASIR_LAUNCH(stream, rmsNorm, out, x, weight, eps) queues
// cpu::rmsNorm(pool, out, x, weight, eps) on a CPU stream, or calls cuda::rmsNorm(cudaStream, out, x, weight, eps), which queues its kernels.
// Tensors and scalars are copied into the task.
#pragma once

#include <tuple>
#include <type_traits>

#include "core/error.h"
#include "core/stream.h"
#include "cpu/stream.h"

namespace kvasir::ops {

template <class... P, class... A>
void launchCpu(Stream& stream, const char* name, void (*kernel)(cpu::Pool&, P...), const A&... args) {
  cpu::Pool& pool = static_cast<cpu::CpuStream&>(stream).pool();
  stream.enqueue(name, [&pool, kernel, values = std::tuple<std::decay_t<A>...>(args...)] {
    std::apply([&](const auto&... v) { kernel(pool, v...); }, values);
  });
}

}  // namespace kvasir::ops

#ifdef KVASIR_WITH_CUDA
#include "cuda/kernels.h"
#define KVASIR_LAUNCH(stream, kernel, ...)                                                                        \
  ((stream).device() == ::kvasir::Device::Cuda ? ::kvasir::cuda::kernel(::kvasir::cuda::of(stream), __VA_ARGS__) \
                                               : ::kvasir::ops::launchCpu(stream, #kernel, ::kvasir::cpu::kernel, __VA_ARGS__))
#else
#define KVASIR_LAUNCH(stream, kernel, ...) ::kvasir::ops::launchCpu(stream, #kernel, ::kvasir::cpu::kernel, __VA_ARGS__)
#endif
