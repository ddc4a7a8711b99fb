// bias + GELU (kernels/gelu.py).

#pragma once

#include "task_sums.h"

namespace {

// The normal distribution Phi(z), and its density times sqrt(2 pi).
inline std::pair<V, V> normal(const V& z, const float*) {
  return {V(0.5f) * (V(1.0f) + (z * V(kRootHalf)).erf()), (z * z * V(-0.5f)).exp_u20()};
}

// The same for activations of 16 bits, whose digits Hastings' polynomial gives (Abramowitz and Stegun, 7.1.26).
inline std::pair<V, V> normal(const V& z, const BFloat16*) {
  const V density = (z * z * V(-0.5f)).exp_u20();
  const V t = V(1.0f) / at::vec::fmadd(z.abs(), V(0.3275911f * kRootHalf), V(1.0f));
  V tail = at::vec::fmadd(t, V(1.061405429f), V(-1.453152027f));
  tail = at::vec::fmadd(t, tail, V(1.421413741f));
  tail = at::vec::fmadd(t, tail, V(-0.284496736f));
  tail = at::vec::fmadd(t, tail, V(0.254829592f)) * t * density * V(0.5f);
  return {V::blendv(V(1.0f) - tail, tail, z < V(0.0f)), density};
}

std::tuple<Tensor, Tensor> gelu_forward(const Tensor& x_given, const Tensor& bias) {
  const Tensor x = x_given.contiguous(), z = at::empty_like(x), y = at::empty_like(x);
  const int64_t rows = x.size(0), columns = x.size(1);
  with_type(x.scalar_type(), [&](auto kind) {
    using T = decltype(kind);
    const T* from = x.const_data_ptr<T>();
    const float* shift = bias.const_data_ptr<float>();
    T *sum = z.mutable_data_ptr<T>(), *to = y.mutable_data_ptr<T>();
    at::parallel_for(0, rows, kGrain, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; row++) {
        across(columns, [&](int64_t at, auto count) {
          const int64_t place = row * columns + at;
          const V value = rounded(load(from + place, count) + load(shift + at, count), from);
          store(sum + place, value, count);
          store(to + place, value * normal(value, from).first, count);
        });
      }
    });
  });
  return {z, y};
}

Tensor gelu_backward(const Tensor& dy_given, const Tensor& z, const Tensor& bias_gradients, const Tensor& offsets,
                     bool add) {
  const Tensor dy = dy_given.contiguous(), dz = at::empty_like(z);
  const int64_t columns = z.size(1);
  const auto pieces = pieces_of(offsets, z.size(0));
  std::vector<float> partials(pieces.size() * columns);
  with_type(z.scalar_type(), [&](auto kind) {
    using T = decltype(kind);
    const T *upstream = dy.const_data_ptr<T>(), *sum = z.const_data_ptr<T>();
    T* to = dz.mutable_data_ptr<T>();
    for_pieces(pieces, [&](int64_t index, const Piece& piece) {
      float* sums = partials.data() + index * columns;
      for (int64_t row = piece.start; row < piece.stop; row++) {
        across(columns, [&](int64_t at, auto count) {
          const int64_t place = row * columns + at;
          const V value = load(sum + place, count);
          // gelu'(z) = Phi(z) + z * phi(z), the normal distribution and its density.
          const auto [share, density] = normal(value, sum);
          const V slope = at::vec::fmadd(value * density, V(kRootTau), share);
          const V gradient = load(upstream + place, count) * slope;
          store(to + place, gradient, count);
          add_to(sums + at, gradient, count);
        });
      }
    });
  });
  collect(pieces, partials, {bias_gradients}, add);
  return dz;
}

}  // namespace
