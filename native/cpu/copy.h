#pragma once

#include "core/file_view.h"
#include "core/tensor.h"
#include "cpu/parallel.h"

namespace kvasir::cpu {

void copy(Pool& pool, const Tensor& out, const Tensor& x);
void gatherRows(Pool& pool, const Tensor& out, const Tensor& x, const Tensor& indices);
void scatterElements(Pool& pool, const Tensor& out, const Tensor& indices, const Tensor& values);
void selectElements(Pool& pool, const Tensor& out, const Tensor& x, const Tensor& indices);
void fill(Pool& pool, const Tensor& out, double value);
void fillRandom(Pool& pool, const Tensor& out, int64_t seed, double scale);
void loadFromFile(Pool& pool, const Tensor& out, const FileView& source);

}  // namespace kvasir::cpu
