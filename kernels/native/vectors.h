// Vectors of ATen over float and bfloat16 alike: whole ones, and the last of a row, whose missing elements read as zero
// and are not written.

#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

namespace {

using at::Tensor;
using V = at::vec::Vectorized<float>;
using I = at::vec::Vectorized<int32_t>;
using at::BFloat16;
using Optional = const std::optional<Tensor>&;

constexpr int64_t kWidth = V::size();
constexpr int64_t kChunk = 1024;     // elements of a chunk: CHUNK of kernels/layout/flat.py
constexpr int64_t kPieceRows = 32;   // rows whose sums are taken at once
constexpr int64_t kGrain = 8;        // rows that are worth a thread
constexpr float kRootHalf = 0.70710678f, kRootTau = 0.39894228f;  // 1 / sqrt(2), 1 / sqrt(2 pi)

// Call `function` with a value of the C++ type that `type` stands for.
template <class Function>
void with_type(at::ScalarType type, const Function& function) {
  if (type == at::kFloat) {
    function(float{});
  } else if (type == at::kBFloat16) {
    function(BFloat16{});
  } else {
    TORCH_CHECK(false, "native kernels take float32 and bfloat16, not ", type);
  }
}

// Call `function(at, count)` for each vector of a row: count is kWidth, known to the compiler, in all but the last.
template <class Function>
inline void across(int64_t columns, const Function& function) {
  int64_t at = 0;
  for (; at + kWidth <= columns; at += kWidth) function(at, std::integral_constant<int64_t, kWidth>{});
  if (at < columns) function(at, columns - at);
}

inline int64_t count_at(int64_t at, int64_t size) { return std::min(kWidth, size - at); }

inline V load(const float* from, int64_t count = kWidth) {
  return count == kWidth ? V::loadu(from) : V::loadu(from, count);
}

inline V load(const BFloat16* from, int64_t count = kWidth) {
  V out;
  if (count == kWidth) {
    at::vec::load_to_float(from, out);
    return out;
  }
  BFloat16 padded[kWidth] = {};
  std::memcpy(padded, from, count * sizeof(BFloat16));
  at::vec::load_to_float(padded, out);
  return out;
}

inline void store(float* to, const V& value, int64_t count = kWidth) {
  count == kWidth ? value.store(to) : value.store(to, static_cast<int>(count));
}

inline void store(BFloat16* to, const V& value, int64_t count = kWidth) {
  // The second half of what is converted together is not wanted.
  const auto both = at::vec::convert_from_float<BFloat16>(value, V(0.0f));
  if (count == kWidth) {
    std::memcpy(to, &both, kWidth * sizeof(BFloat16));
  } else {
    std::memcpy(to, &both, count * sizeof(BFloat16));
  }
}

inline float sum_of(const V& value) {
  return at::vec::vec_reduce_all<float>([](V& a, V& b) { return a + b; }, value);
}

inline float largest_of(const V& value) {
  return at::vec::vec_reduce_all<float>([](V& a, V& b) { return at::vec::maximum(a, b); }, value);
}

// `value` as the activations hold it: what the backward reads.
inline V rounded(const V& value, const float*) { return value; }
inline V rounded(const V& value, const BFloat16*) {
  // To the nearest of 16 bits, ties to even; a NaN stays as it is.
  const I bits = at::vec::cast<int32_t>(value);
  const I nearest = (bits + I(0x7FFF) + ((bits >> I(16)) & I(1))) & I(~0xFFFF);
  return V::blendv(at::vec::cast<float>(nearest), value, value != value);
}

}  // namespace
