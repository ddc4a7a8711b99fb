// bias + dropout + residual + LayerNorm (kernels/layer_norm.py), and the LayerNorm of the embedding.

#pragma once

#include "dropout.h"
#include "task_sums.h"

namespace {

// LayerNorm of the row z: y times the factors, where there are any; the mean and the inverse standard deviation.
template <class T>
std::tuple<float, float> normalise(const T* z, const float* gamma, const float* beta, const float* factors, float epsilon,
                                   int64_t columns, T* y) {
  V total(0.0f), squares(0.0f);
  across(columns, [&](int64_t at, auto count) { total = total + load(z + at, count); });
  const float mean = sum_of(total) / columns;
  across(columns, [&](int64_t at, auto count) {
    const V apart = count == kWidth ? load(z + at) - V(mean) : V::set(V(0.0f), load(z + at, count) - V(mean), count);
    squares = at::vec::fmadd(apart, apart, squares);
  });
  const float inverse = 1.0f / std::sqrt(sum_of(squares) / columns + epsilon);
  across(columns, [&](int64_t at, auto count) {
    V value = (load(z + at, count) - V(mean)) * V(inverse);
    value = at::vec::fmadd(value, load(gamma + at, count), load(beta + at, count));
    if (factors) value = value * load(factors + at, count);
    store(y + at, value, count);
  });
  return {mean, inverse};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> add_norm_forward(
    const Tensor& x_given, const Tensor& bias, const Tensor& residual_given, const Tensor& gamma, const Tensor& beta,
    double epsilon, Optional seed, int64_t site, int64_t threshold, double scale) {
  const Tensor x = x_given.contiguous(), residual = residual_given.contiguous();
  const int64_t rows = x.size(0), columns = x.size(1);
  const Tensor y = at::empty_like(x), z = at::empty_like(x);
  const Tensor mean = at::empty({rows}, at::kFloat), inverse_std = at::empty({rows}, at::kFloat);
  const Dropout dropout(seed, site, threshold, scale);
  with_type(x.scalar_type(), [&](auto kind) {
    using T = decltype(kind);
    const T *from = x.const_data_ptr<T>(), *beside = residual.const_data_ptr<T>();
    const float *shift = bias.const_data_ptr<float>(), *weight = gamma.const_data_ptr<float>();
    const float* offset = beta.const_data_ptr<float>();
    T *sum = z.mutable_data_ptr<T>(), *to = y.mutable_data_ptr<T>();
    float *means = mean.mutable_data_ptr<float>(), *inverses = inverse_std.mutable_data_ptr<float>();
    at::parallel_for(0, rows, kGrain, [&](int64_t begin, int64_t end) {
      RowFactors row_factors(dropout, columns);
      for (int64_t row = begin; row < end; row++) {
        const float* factors = dropout.on ? row_factors.of(row) : nullptr;
        across(columns, [&](int64_t at, auto count) {
          const int64_t place = row * columns + at;
          V value = load(from + place, count) + load(shift + at, count);
          if (factors) value = value * load(factors + at, count);
          store(sum + place, value + load(beside + place, count), count);
        });
        std::tie(means[row], inverses[row]) = normalise(sum + row * columns, weight, offset, nullptr,
                                                        static_cast<float>(epsilon), columns, to + row * columns);
      }
    });
  });
  return {y, z, mean, inverse_std};
}

std::tuple<Tensor, Tensor> norm_backward(const Tensor& dy_given, const Tensor& z, const Tensor& mean,
                                         const Tensor& inverse_std, const Tensor& gamma, const Tensor& gamma_gradients,
                                         const Tensor& beta_gradients, Optional bias_gradients, const Tensor& offsets,
                                         bool add, Optional seed, int64_t site, int64_t threshold, double scale) {
  const Tensor dy = dy_given.contiguous(), dz = at::empty_like(z);
  const int64_t columns = z.size(1);
  const Dropout dropout(seed, site, threshold, scale);
  // With a bias, LayerNorm's input is residual + dropout(x + bias); without one, the dropout is one of its result.
  const bool added = bias_gradients.has_value();
  const Tensor dx = added && dropout.on ? at::empty_like(z) : at::empty({0}, z.options());
  std::vector<Tensor> targets = {gamma_gradients, beta_gradients};
  if (added) targets.push_back(*bias_gradients);
  const auto pieces = pieces_of(offsets, z.size(0));
  std::vector<float> partials(pieces.size() * targets.size() * columns);
  with_type(z.scalar_type(), [&](auto kind) {
    using T = decltype(kind);
    const T *upstream = dy.const_data_ptr<T>(), *sum = z.const_data_ptr<T>();
    const float *means = mean.const_data_ptr<float>(), *inverses = inverse_std.const_data_ptr<float>();
    const float* weight = gamma.const_data_ptr<float>();
    T *to = dz.mutable_data_ptr<T>(), *dropped = dx.mutable_data_ptr<T>();
    for_pieces(pieces, [&](int64_t index, const Piece& piece) {
      RowFactors row_factors(dropout, columns);
      std::vector<float> normal(columns + kWidth), scaled(columns + kWidth);
      float* gammas = partials.data() + index * targets.size() * columns;
      float *betas = gammas + columns, *biases = betas + columns;
      for (int64_t row = piece.start; row < piece.stop; row++) {
        const float* factors = dropout.on ? row_factors.of(row) : nullptr;
        const V center(means[row]), inverse(inverses[row]);
        V slope(0.0f), along(0.0f);
        across(columns, [&](int64_t at, auto count) {
          const int64_t place = row * columns + at;
          V gradient = load(upstream + place, count);
          if (factors && !added) gradient = gradient * load(factors + at, count);
          const V value = (load(sum + place, count) - center) * inverse;
          const V weighted = gradient * load(weight + at, count);
          add_to(gammas + at, gradient * value, count);
          add_to(betas + at, gradient, count);
          value.store(normal.data() + at);
          weighted.store(scaled.data() + at);
          slope = slope + weighted;  // zero where the row has no elements, since gamma is
          along = at::vec::fmadd(weighted, value, along);
        });
        const V shift(sum_of(slope) / columns), lean(sum_of(along) / columns);
        across(columns, [&](int64_t at, auto count) {
          const int64_t place = row * columns + at;
          V gradient = (load(scaled.data() + at) - shift - load(normal.data() + at) * lean) * inverse;
          store(to + place, gradient, count);
          if (!added) return;
          if (factors) {
            gradient = gradient * load(factors + at, count);
            store(dropped + place, gradient, count);
          }
          add_to(biases + at, gradient, count);
        });
      }
    });
  });
  collect(pieces, partials, targets, add);
  return {dz, dx};
}

}  // namespace
