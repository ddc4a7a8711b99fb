// The ops of kernels/ for a CPU: what their Triton launchers do, by the same names and with the same arguments.
//
// Everything is computed in fp32, whatever the activations' dtype (float or bfloat16), with ATen's vectors (AVX-512,
// AVX2) and ATen's threads. Dropout's bits are those of kernels/dropout.py.
// No result depends on the number of threads: sums over rows are taken in pieces of a fixed size, added up in order.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

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

// ---- Vectors: whole ones, and the last of a row, whose missing elements read as zero and are not written. ----

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

// ---- Dropout: Philox4x32-7, eight elements a call, kWidth calls at once (kernels/dropout.py). ----

// The upper and the lower half of each 32-bit word times a number: what ATen's vectors lack.
inline void multiply_words(const I& words, uint32_t number, I& high, I& low) {
#if defined(CPU_CAPABILITY_AVX512)
  const __m512i factor = _mm512_set1_epi64(number), bits = words;
  const __m512i even = _mm512_mul_epu32(bits, factor), odd = _mm512_mul_epu32(_mm512_srli_epi64(bits, 32), factor);
  high = _mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(even, 32), odd);
  low = _mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32));
#elif defined(CPU_CAPABILITY_AVX2)
  const __m256i factor = _mm256_set1_epi64x(number), bits = words;
  const __m256i even = _mm256_mul_epu32(bits, factor), odd = _mm256_mul_epu32(_mm256_srli_epi64(bits, 32), factor);
  high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
  low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
#else
#error "native kernels are built for AVX-512 or AVX2"
#endif
}

struct Dropout {
  bool on;
  uint64_t seed;
  int32_t site, threshold;  // the threshold of signed lanes
  float scale;

  Dropout(Optional given, int64_t number, int64_t level, double factor)
      : on(given.has_value()),
        seed(on ? static_cast<uint64_t>(*given->const_data_ptr<int64_t>()) : 0),
        site(static_cast<int32_t>(number)),
        threshold(static_cast<int32_t>(level) - 32768),
        scale(static_cast<float>(factor)) {}

  // The factors of calls with these counters, of which the lower word (or, across, the upper one) grows by one a call:
  // 8 a call, and those of as many calls as fill the last vector.
  void factors(uint64_t counter, bool across, int64_t calls, float* out) const {
    const I low_step = I::arange(0, across ? 0 : 1), high_step = I::arange(0, across ? 1 : 0);
    for (int64_t call = 0; call < calls; call += kWidth) {
      const uint64_t first = counter + (static_cast<uint64_t>(call) << (across ? 32 : 0));
      I word0 = I(static_cast<int32_t>(first)) + low_step, word1 = I(static_cast<int32_t>(first >> 32)) + high_step;
      I word2(site), word3(0), high0, high1, low0, low1;
      uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
      for (int round = 0; round < 7; round++) {
        multiply_words(word0, 0xD2511F53u, high0, low0);
        multiply_words(word2, 0xCD9E8D57u, high1, low1);
        word0 = high1 ^ word1 ^ I(static_cast<int32_t>(key0));
        word2 = high0 ^ word3 ^ I(static_cast<int32_t>(key1));
        word1 = low1;
        word3 = low0;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
      }
      // Each call's words in order, and of each word the lower half before the upper one.
      const auto [even0, even1] = at::vec::interleave2(as_floats(word0), as_floats(word2));
      const auto [odd0, odd1] = at::vec::interleave2(as_floats(word1), as_floats(word3));
      const auto [quarter0, quarter1] = at::vec::interleave2(even0, odd0);
      const auto [quarter2, quarter3] = at::vec::interleave2(even1, odd1);
      float* to = out + 8 * call;
      for (const V& quarter : {quarter0, quarter1, quarter2, quarter3}) {
        const I words = at::vec::cast<int32_t>(quarter);
        const auto [left, right] = at::vec::interleave2(kept((words << I(16)) >> I(16)), kept(words >> I(16)));
        left.store(to);
        right.store(to + kWidth);
        to += 2 * kWidth;
      }
    }
  }

 private:
  static V as_floats(const I& words) { return at::vec::cast<float>(words); }

  V kept(const I& lanes) const { return V::blendv(V(0.0f), V(scale), as_floats(lanes >= I(threshold))); }
};

// The factors of one row of a matrix after the other.
class RowFactors {
 public:
  RowFactors(const Dropout& dropout, int64_t columns)
      : dropout_(dropout), columns_(columns), factors_(dropout.on ? columns + 16 + 8 * kWidth : 0) {}

  const float* of(int64_t row) {
    const int64_t first = row * columns_;
    dropout_.factors(first / 8, false, (first % 8 + columns_ + 7) / 8, factors_.data());
    return factors_.data() + first % 8;
  }

 private:
  const Dropout& dropout_;
  int64_t columns_;
  std::vector<float> factors_;
};

// ---- Sums over the rows of each task. ----

struct Piece {
  int64_t task, start, stop;
};

// Every task's rows in pieces of at most kPieceRows; rows that no task owns, which padding is, as pieces of task -1.
std::vector<Piece> pieces_of(const Tensor& offsets, int64_t rows) {
  const int32_t* bounds = offsets.const_data_ptr<int32_t>();
  const int64_t tasks = offsets.numel() - 1;
  std::vector<Piece> pieces;
  for (int64_t task = -1; task < tasks; task++) {
    const int64_t from = bounds[task < 0 ? tasks : task], to = task < 0 ? rows : bounds[task + 1];
    for (int64_t start = from; start < to; start += kPieceRows) {
      pieces.push_back({task, start, std::min(start + kPieceRows, to)});
    }
  }
  return pieces;
}

template <class Function>
void for_pieces(const std::vector<Piece>& pieces, const Function& function) {
  at::parallel_for(0, pieces.size(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; index++) function(index, pieces[index]);
  });
}

// Add up the pieces' partial sums [pieces, sums, columns], in order, and deposit each sum in its target [T, columns].
void collect(const std::vector<Piece>& pieces, const std::vector<float>& partials, const std::vector<Tensor>& targets,
             bool add) {
  const int64_t sums = targets.size(), tasks = targets[0].size(0), columns = targets[0].size(1);
  const Tensor totals = at::zeros({sums, tasks, columns}, at::kFloat);
  float* total = totals.mutable_data_ptr<float>();
  for (size_t index = 0; index < pieces.size(); index++) {
    if (pieces[index].task < 0) continue;
    for (int64_t sum = 0; sum < sums; sum++) {
      const float* part = partials.data() + (index * sums + sum) * columns;
      float* to = total + (sum * tasks + pieces[index].task) * columns;
      for (int64_t at = 0; at < columns; at++) to[at] += part[at];
    }
  }
  for (int64_t sum = 0; sum < sums; sum++) {
    add ? targets[sum].add_(totals[sum]) : targets[sum].copy_(totals[sum]);
  }
}

inline void add_to(float* sums, const V& value, int64_t count) { store(sums, load(sums, count) + value, count); }

void task_sums(const Tensor& values, const Tensor& gradients, const Tensor& offsets, bool add, int64_t first) {
  const Tensor rows = values.contiguous();
  const int64_t columns = rows.size(1);
  const auto pieces = pieces_of(offsets, rows.size(0));
  std::vector<float> partials(pieces.size() * columns);
  with_type(rows.scalar_type(), [&](auto kind) {
    using T = decltype(kind);
    const T* from = rows.const_data_ptr<T>();
    for_pieces(pieces, [&](int64_t index, const Piece& piece) {
      if (piece.task < 0) return;
      float* sums = partials.data() + index * columns;
      for (int64_t row = piece.start; row < piece.stop; row++) {
        across(columns, [&](int64_t at, auto count) {
          add_to(sums + at, load(from + row * columns + at, count), count);
        });
      }
    });
  });
  collect(pieces, partials, {gradients.narrow(1, first, columns)}, add);
}

// ---- bias + GELU (kernels/gelu.py). ----

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

// ---- bias + dropout + residual + LayerNorm, and embedding + LayerNorm + dropout (kernels/layer_norm.py). ----

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

std::tuple<Tensor, Tensor, Tensor, Tensor> embedding_forward(
    const Tensor& ids, const Tensor& positions, const Tensor& segments, const Tensor& word_table,
    const Tensor& position_table, const Tensor& segment_table, const Tensor& gamma, const Tensor& beta, double epsilon,
    Optional seed, int64_t site, int64_t threshold, double scale) {
  const int64_t rows = ids.numel(), columns = word_table.size(1);
  const Tensor y = at::empty({rows, columns}, word_table.options()), z = at::empty_like(y);
  const Tensor mean = at::empty({rows}, at::kFloat), inverse_std = at::empty({rows}, at::kFloat);
  const Tensor id = ids.contiguous(), position = positions.contiguous(), segment = segments.contiguous();
  const Dropout dropout(seed, site, threshold, scale);
  with_type(word_table.scalar_type(), [&](auto kind) {
    using T = decltype(kind);
    const T *words = word_table.const_data_ptr<T>(), *places = position_table.const_data_ptr<T>();
    const T* kinds = segment_table.const_data_ptr<T>();
    const float *weight = gamma.const_data_ptr<float>(), *offset = beta.const_data_ptr<float>();
    const int32_t *word = id.const_data_ptr<int32_t>(), *where = position.const_data_ptr<int32_t>();
    const int32_t* which = segment.const_data_ptr<int32_t>();
    T *sum = z.mutable_data_ptr<T>(), *to = y.mutable_data_ptr<T>();
    float *means = mean.mutable_data_ptr<float>(), *inverses = inverse_std.mutable_data_ptr<float>();
    for (int64_t row = 0; row < rows; row++) {
      TORCH_CHECK_INDEX(word[row] >= 0 && word[row] < word_table.size(0) && where[row] >= 0 &&
                            where[row] < position_table.size(0) && which[row] >= 0 &&
                            which[row] < segment_table.size(0),
                        "token ", row, ": id ", word[row], ", position ", where[row], " or segment ", which[row],
                        " lies outside of its table");
    }
    at::parallel_for(0, rows, kGrain, [&](int64_t begin, int64_t end) {
      RowFactors row_factors(dropout, columns);
      for (int64_t row = begin; row < end; row++) {
        across(columns, [&](int64_t at, auto count) {
          const V value = load(words + word[row] * columns + at, count) +
                          load(places + where[row] * columns + at, count);
          store(sum + row * columns + at, value + load(kinds + which[row] * columns + at, count), count);
        });
        const float* factors = dropout.on ? row_factors.of(row) : nullptr;
        std::tie(means[row], inverses[row]) = normalise(sum + row * columns, weight, offset, factors,
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

// ---- Attention (kernels/attention/op.py). ----

constexpr int kHigh = kWidth == 16 ? 8 : 4;  // rows of the result in registers, two vectors each

// C[0:ROWS, 0:VECTORS * kWidth] = A B; A[i, k] lies at a + i * row_step + k * step, the rows of B and C are whole.
template <int ROWS, int VECTORS>
inline void multiply_tile(const float* a, int64_t row_step, int64_t step, const float* b, int64_t b_stride,
                          int64_t depth, float* c, int64_t c_stride) {
  V total[ROWS][VECTORS];
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; i++) {
#pragma GCC unroll 2
    for (int j = 0; j < VECTORS; j++) total[i][j] = V(0.0f);
  }
  for (int64_t k = 0; k < depth; k++) {
    V right[VECTORS];
#pragma GCC unroll 2
    for (int j = 0; j < VECTORS; j++) right[j] = V::loadu(b + k * b_stride + j * kWidth);
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++) {
      const V left(a[i * row_step + k * step]);
#pragma GCC unroll 2
      for (int j = 0; j < VECTORS; j++) total[i][j] = at::vec::fmadd(left, right[j], total[i][j]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; i++) {
#pragma GCC unroll 2
    for (int j = 0; j < VECTORS; j++) total[i][j].store(c + i * c_stride + j * kWidth);
  }
}

template <int VECTORS>
inline void multiply_panel(int64_t rows, const float* a, int64_t row_step, int64_t step, const float* b,
                           int64_t b_stride, int64_t depth, float* c, int64_t c_stride) {
  int64_t i = 0;
  for (; i + kHigh <= rows; i += kHigh)
    multiply_tile<kHigh, VECTORS>(a + i * row_step, row_step, step, b, b_stride, depth, c + i * c_stride, c_stride);
  for (; i + 2 <= rows; i += 2)
    multiply_tile<2, VECTORS>(a + i * row_step, row_step, step, b, b_stride, depth, c + i * c_stride, c_stride);
  for (; i < rows; i++)
    multiply_tile<1, VECTORS>(a + i * row_step, row_step, step, b, b_stride, depth, c + i * c_stride, c_stride);
}

// C [rows, columns] = A [rows, depth] B [depth, columns]; columns are a multiple of kWidth, and rows of B and C whole.
void multiply(int64_t rows, int64_t columns, int64_t depth, const float* a, int64_t row_step, int64_t step,
              const float* b, int64_t b_stride, float* c, int64_t c_stride) {
  int64_t j = 0;
  for (; j + 2 * kWidth <= columns; j += 2 * kWidth)
    multiply_panel<2>(rows, a, row_step, step, b + j, b_stride, depth, c + j, c_stride);
  if (j < columns) multiply_panel<1>(rows, a, row_step, step, b + j, b_stride, depth, c + j, c_stride);
}

inline int64_t whole(int64_t size) { return (size + kWidth - 1) / kWidth * kWidth; }

// A head's rows, which lie `stride` apart, as fp32 [length, wide]; what is beyond d is zero.
template <class T>
void read_rows(const T* from, int64_t stride, int64_t length, int64_t d, int64_t wide, float* to) {
  for (int64_t row = 0; row < length; row++) {
    for (int64_t at = 0; at < wide; at += kWidth) {
      load(from + row * stride + at, count_at(at, d)).store(to + row * wide + at);
    }
  }
}

template <class T>
void write_rows(const float* from, int64_t wide, int64_t length, int64_t d, T* to, int64_t stride) {
  for (int64_t row = 0; row < length; row++) {
    for (int64_t at = 0; at < d; at += kWidth) store(to + row * stride + at, load(from + row * wide + at), count_at(at, d));
  }
}

// [length, wide] as [wide, padded]; what is beyond length is zero.
void transpose(const float* from, int64_t length, int64_t wide, int64_t padded, float* to) {
  for (int64_t column = 0; column < wide; column++) {
    for (int64_t row = 0; row < length; row++) to[column * padded + row] = from[row * wide + column];
    for (int64_t row = length; row < padded; row++) to[column * padded + row] = 0.0f;
  }
}

// The sequences' heads, shared out to the threads by their cost; each thread has scratch of its own.
template <class Function>
void for_heads(const int32_t* cu, int64_t sequences, int64_t heads, const Function& function) {
  std::vector<double> cost(sequences + 1);
  for (int64_t s = 0; s < sequences; s++) {
    const double length = cu[s + 1] - cu[s];
    cost[s + 1] = cost[s] + length * (length + 16);
  }
  const int64_t threads = at::get_num_threads();
  at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch;
    const auto first_of = [&](int64_t thread) {
      return std::lower_bound(cost.begin(), cost.end() - 1, cost.back() * thread / threads) - cost.begin();
    };
    const int64_t last = end == threads ? sequences : first_of(end);
    for (int64_t s = first_of(begin); s < last; s++) {
      for (int64_t head = 0; head < heads; head++) {
        if (cu[s + 1] > cu[s]) function(cu[s], cu[s + 1] - cu[s], head, scratch);
      }
    }
  });
}

// `rows` [tokens, ...], zero after the last sequence, where a batch of fixed size has padding.
inline Tensor cleared_after(const Tensor& cu_seqlens, const Tensor& rows) {
  const int64_t last = cu_seqlens.const_data_ptr<int32_t>()[cu_seqlens.numel() - 1];
  rows.narrow(0, last, rows.size(0) - last).zero_();
  return rows;
}

// Attention's dropout: the factors of one query's keys.
inline void attention_factors(const Dropout& dropout, int64_t row, int64_t heads, int64_t head, int64_t keys,
                              float* factors) {
  dropout.factors(row * heads + head, true, (keys + 7) / 8, factors);
}

std::tuple<Tensor, Tensor> attention_forward(const Tensor& given, const Tensor& cu_seqlens, int64_t max_length,
                                             Optional seed, int64_t site, int64_t threshold, double factor) {
  const Tensor qkv = given.contiguous();
  const int64_t tokens = qkv.size(0), heads = qkv.size(2), d = qkv.size(3), wide = whole(d);
  const Tensor out = cleared_after(cu_seqlens, at::empty({tokens, heads, d}, qkv.options())), log_sums = at::empty({heads, tokens}, at::kFloat);
  const int32_t* cu = cu_seqlens.const_data_ptr<int32_t>();
  const Dropout dropout(seed, site, threshold, factor);
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  with_type(qkv.scalar_type(), [&](auto kind) {
    using T = decltype(kind);
    const T* from = qkv.const_data_ptr<T>();
    T* to = out.mutable_data_ptr<T>();
    float* sums = log_sums.mutable_data_ptr<float>();
    for_heads(cu, cu_seqlens.numel() - 1, heads, [&](int64_t start, int64_t length, int64_t head, auto& scratch) {
      const int64_t padded = whole(length), stride = 3 * heads * d;
      scratch.resize(4 * padded * wide + padded * padded + padded + 8 * kWidth);
      float *q = scratch.data(), *kt = q + padded * wide, *v = kt + padded * wide, *result = v + padded * wide;
      float *scores = result + padded * wide, *factors = scores + padded * padded;
      const T* base = from + start * stride + head * d;
      read_rows(base + heads * d, stride, length, d, wide, result);
      transpose(result, length, wide, padded, kt);
      read_rows(base, stride, length, d, wide, q);
      read_rows(base + 2 * heads * d, stride, length, d, wide, v);
      multiply(length, padded, d, q, wide, 1, kt, padded, scores, padded);
      for (int64_t query = 0; query < length; query++) {
        float* row = scores + query * padded;
        V top(-std::numeric_limits<float>::infinity()), total(0.0f);
        for (int64_t at = 0; at < length; at += kWidth) {
          top = at::vec::maximum(top, V::set(V(row[0]), load(row + at), count_at(at, length)));
        }
        const float highest = largest_of(top) * scale;
        for (int64_t at = 0; at < length; at += kWidth) {
          const V p = at::vec::fmsub(load(row + at), V(scale), V(highest)).exp_u20();
          const V kept = V::set(V(0.0f), p, count_at(at, length));
          kept.store(row + at);
          total = total + kept;
        }
        const float sum = sum_of(total);
        sums[head * tokens + start + query] = highest + std::log(sum);
        if (dropout.on) attention_factors(dropout, start + query, heads, head, length, factors);
        for (int64_t at = 0; at < length; at += kWidth) {
          V p = load(row + at) * V(1.0f / sum);
          if (dropout.on) p = p * load(factors + at);
          p.store(row + at);
        }
      }
      multiply(length, wide, length, scores, padded, 1, v, wide, result, wide);
      write_rows(result, wide, length, d, to + (start * heads + head) * d, heads * d);
    });
  });
  return {out, log_sums};
}

Tensor attention_backward(const Tensor& d_out_given, const Tensor& given, const Tensor& out, const Tensor& log_sums,
                          const Tensor& cu_seqlens, int64_t max_length, Optional seed, int64_t site, int64_t threshold,
                          double factor) {
  const Tensor qkv = given.contiguous(), d_out = d_out_given.contiguous();
  const Tensor d_qkv = cleared_after(cu_seqlens, at::empty_like(qkv));
  const int64_t tokens = qkv.size(0), heads = qkv.size(2), d = qkv.size(3), wide = whole(d);
  const int32_t* cu = cu_seqlens.const_data_ptr<int32_t>();
  const Dropout dropout(seed, site, threshold, factor);
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  with_type(qkv.scalar_type(), [&](auto kind) {
    using T = decltype(kind);
    const T *from = qkv.const_data_ptr<T>(), *upstream = d_out.const_data_ptr<T>();
    T* to = d_qkv.mutable_data_ptr<T>();
    const float* sums = log_sums.const_data_ptr<float>();
    for_heads(cu, cu_seqlens.numel() - 1, heads, [&](int64_t start, int64_t length, int64_t head, auto& scratch) {
      const int64_t padded = whole(length), stride = 3 * heads * d, size = padded * wide;
      scratch.resize(8 * size + 2 * padded * padded + padded + 8 * kWidth);
      float *q = scratch.data(), *k = q + size, *kt = k + size, *v = kt + size, *vt = v + size, *gradient = vt + size;
      float *result = gradient + size, *p = result + 2 * size, *ds = p + padded * padded;
      float* factors = ds + padded * padded;
      const T* base = from + start * stride + head * d;
      read_rows(base, stride, length, d, wide, q);
      read_rows(base + heads * d, stride, length, d, wide, k);
      read_rows(base + 2 * heads * d, stride, length, d, wide, v);
      read_rows(upstream + (start * heads + head) * d, heads * d, length, d, wide, gradient);
      transpose(k, length, wide, padded, kt);
      transpose(v, length, wide, padded, vt);
      multiply(length, padded, d, q, wide, 1, kt, padded, p, padded);
      multiply(length, padded, d, gradient, wide, 1, vt, padded, ds, padded);
      for (int64_t query = 0; query < length; query++) {
        float *row = p + query * padded, *d_row = ds + query * padded;
        const V log_sum(sums[head * tokens + start + query]);
        if (dropout.on) attention_factors(dropout, start + query, heads, head, length, factors);
        V delta(0.0f);
        for (int64_t at = 0; at < length; at += kWidth) {
          const V value = at::vec::fmsub(load(row + at), V(scale), log_sum).exp_u20();
          const V kept = V::set(V(0.0f), value, count_at(at, length));
          V d_kept = load(d_row + at);
          if (dropout.on) d_kept = d_kept * load(factors + at);
          kept.store(row + at);
          d_kept.store(d_row + at);
          delta = at::vec::fmadd(kept, d_kept, delta);
        }
        const V mean(sum_of(delta));
        for (int64_t at = 0; at < length; at += kWidth) {
          const V kept = load(row + at);
          (kept * (load(d_row + at) - mean) * V(scale)).store(d_row + at);
          if (dropout.on) (kept * load(factors + at)).store(row + at);
        }
      }
      T* target = to + start * stride + head * d;
      multiply(length, wide, length, ds, padded, 1, k, wide, result, wide);
      write_rows(result, wide, length, d, target, stride);
      multiply(length, wide, length, ds, 1, padded, q, wide, result, wide);
      write_rows(result, wide, length, d, target + heads * d, stride);
      multiply(length, wide, length, p, 1, padded, gradient, wide, result, wide);
      write_rows(result, wide, length, d, target + 2 * heads * d, stride);
    });
  });
  return d_qkv;
}

// ---- Surgery and the step (kernels/surgery). ----

// Rows that a processor reads ahead of by itself: of more, each row's next chunk is asked for beforehand.
constexpr int64_t kStreams = 4;

// The products of the rows of `values` [tasks, kChunk], whose lower half is added to `gram` [tasks, tasks].
void add_products(const float* values, int64_t tasks, double* gram) {
  constexpr int kSide = 4;
  for (int64_t i = 0; i < tasks; i += kSide) {
    for (int64_t j = 0; j <= i; j += kSide) {
      const int64_t high = std::min<int64_t>(kSide, tasks - i), broad = std::min<int64_t>(kSide, tasks - j);
      V total[kSide][kSide];
      for (auto& row : total) row[0] = row[1] = row[2] = row[3] = V(0.0f);
      for (int64_t at = 0; at < kChunk; at += kWidth) {
        V left[kSide], right[kSide];
#pragma GCC unroll 4
        for (int side = 0; side < kSide; side++) {
          // Rows beyond the last one repeat it, and their products are not read.
          left[side] = V::loadu(values + (i + std::min<int64_t>(side, high - 1)) * kChunk + at);
          right[side] = V::loadu(values + (j + std::min<int64_t>(side, broad - 1)) * kChunk + at);
        }
#pragma GCC unroll 4
        for (int a = 0; a < kSide; a++) {
#pragma GCC unroll 4
          for (int b = 0; b < kSide; b++) total[a][b] = at::vec::fmadd(left[a], right[b], total[a][b]);
        }
      }
      for (int64_t a = 0; a < high; a++) {
        for (int64_t b = 0; b < broad && j + b <= i + a; b++) gram[(i + a) * tasks + j + b] += sum_of(total[a][b]);
      }
    }
  }
}

Tensor gram_of_flat(const Tensor& gradients, const Tensor& touched, const Tensor& spans, const Tensor& span_offsets) {
  const int64_t tasks = gradients.size(0), count = spans.size(0);
  const int64_t blocks = span_offsets.numel() - 1, stride = gradients.stride(0), flags_stride = touched.stride(0);
  const Tensor result = at::zeros({blocks, tasks, tasks}, at::kDouble);
  std::vector<double> partials(count * tasks * tasks);
  const int32_t* span = spans.const_data_ptr<int32_t>();
  const uint8_t* flags = touched.const_data_ptr<uint8_t>();
  with_type(gradients.scalar_type(), [&](auto kind) {
    using T = decltype(kind);
    const T* from = gradients.const_data_ptr<T>();
    at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      std::vector<float> values(tasks * kChunk);
      std::vector<double> products(tasks * tasks);
      std::vector<int64_t> present;
      for (int64_t index = begin; index < end; index++) {
        double* totals = partials.data() + index * tasks * tasks;
        for (int64_t chunk = span[2 * index]; chunk < span[2 * index + 1]; chunk++) {
          // Chunks that hold zeros only are not read.
          present.clear();
          for (int64_t task = 0; task < tasks; task++) {
            if (flags[task * flags_stride + chunk]) present.push_back(task);
          }
          const int64_t size = present.size();
          for (int64_t row = 0; row < size; row++) {
            const T* own = from + present[row] * stride + chunk * kChunk;
            for (int64_t at = 0; at < kChunk; at += kWidth) {
              load(own + at).store(values.data() + row * kChunk + at);
              if (size > kStreams) __builtin_prefetch(own + kChunk + at, 0, 2);
            }
          }
          std::fill(products.begin(), products.end(), 0.0);
          add_products(values.data(), size, products.data());
          for (int64_t i = 0; i < size; i++) {
            for (int64_t j = 0; j <= i; j++) totals[present[i] * tasks + present[j]] += products[i * size + j];
          }
        }
      }
    });
  });
  const int32_t* offsets = span_offsets.const_data_ptr<int32_t>();
  double* to = result.mutable_data_ptr<double>();
  for (int64_t block = 0; block < blocks; block++) {
    for (int64_t index = offsets[block]; index < offsets[block + 1]; index++) {
      for (int64_t i = 0; i < tasks; i++) {
        for (int64_t j = 0; j <= i; j++) {
          const double value = partials[(index * tasks + i) * tasks + j];
          to[(block * tasks + i) * tasks + j] += value;
          if (i != j) to[(block * tasks + j) * tasks + i] += value;
        }
      }
    }
  }
  return result;
}

void combine_adamw_step(const Tensor& gradients, const Tensor& touched, const Tensor& coefficients, const Tensor& momentum,
                   const Tensor& variance, const Tensor& master, Optional copy, const Tensor& chunk_block,
                   const Tensor& chunk_decays, const Tensor& factor, const Tensor& step_sizes, const Tensor& shrinks,
                   const Tensor& apply, double rest1, double rest2, double epsilon) {
  if (!*apply.const_data_ptr<bool>()) return;
  const int64_t tasks = gradients.size(0), chunks = touched.size(1), stride = gradients.stride(0);
  const uint8_t* flags = touched.const_data_ptr<uint8_t>();
  const float *rows = coefficients.const_data_ptr<float>(), times = *factor.const_data_ptr<float>();
  const float *sizes = step_sizes.const_data_ptr<float>(), *kept = shrinks.const_data_ptr<float>();
  const int32_t* block_of = chunk_block.const_data_ptr<int32_t>();
  const bool* decays = chunk_decays.const_data_ptr<bool>();
  float *first = momentum.mutable_data_ptr<float>(), *second = variance.mutable_data_ptr<float>();
  float* weight = master.mutable_data_ptr<float>();
  const V share1(static_cast<float>(rest1)), share2(static_cast<float>(rest2)), small(static_cast<float>(epsilon));
  with_type(gradients.scalar_type(), [&](auto kind) {
    using T = decltype(kind);
    const T* from = gradients.const_data_ptr<T>();
    with_type(copy ? copy->scalar_type() : at::kFloat, [&](auto copied) {
      using C = decltype(copied);
      C* compute = copy ? copy->mutable_data_ptr<C>() : nullptr;
      at::parallel_for(0, chunks, 16, [&](int64_t begin, int64_t end) {
        std::vector<const T*> present;
        std::vector<float> times_of;
        for (int64_t chunk = begin; chunk < end; chunk++) {
          const int64_t block = block_of[chunk];
          if (sizes[block] == 0.0f) continue;  // a block that rests
          present.clear();
          times_of.clear();
          for (int64_t task = 0; task < tasks; task++) {
            if (!flags[task * touched.stride(0) + chunk]) continue;
            present.push_back(from + task * stride + chunk * kChunk);
            times_of.push_back(rows[block * tasks + task] * times);
          }
          const bool many = static_cast<int64_t>(present.size()) > kStreams;
          const V size(sizes[block]), shrink(decays[chunk] ? kept[block] : 1.0f);
          for (int64_t at = 0, place = chunk * kChunk; at < kChunk; at += kWidth, place += kWidth) {
            V gradient(0.0f);
            for (size_t task = 0; task < present.size(); task++) {
              gradient = at::vec::fmadd(V(times_of[task]), load(present[task] + at), gradient);
              if (many) __builtin_prefetch(present[task] + kChunk + at, 0, 2);
            }
            V moment = load(first + place), square = load(second + place);
            moment = at::vec::fmadd(gradient - moment, share1, moment);
            square = at::vec::fmadd(gradient * gradient - square, share2, square);
            V value = load(weight + place) - size * moment / (square.sqrt() + small);
            value = value * shrink;
            moment.store(first + place);
            square.store(second + place);
            value.store(weight + place);
            if (compute) store(compute + place, value);
          }
        }
      });
    });
  });
}

// ---- Dropout by itself (the heads'). ----

Tensor dropout_factors(const Tensor& seed, int64_t site, int64_t threshold, double scale, int64_t count) {
  const Dropout dropout(seed, site, threshold, scale);
  const int64_t group = 8 * kWidth, groups = (count + group - 1) / group;
  const Tensor out = at::empty({groups * group}, at::kFloat);
  float* to = out.mutable_data_ptr<float>();
  at::parallel_for(0, groups, 16, [&](int64_t begin, int64_t end) {
    dropout.factors(begin * kWidth, false, (end - begin) * kWidth, to + begin * group);
  });
  return out.narrow(0, 0, count);
}

}  // namespace

// Called within autograd Functions alone, so that a schema need not say what is written to.
TORCH_LIBRARY(concord_native, library) {
  const auto cpu = [](auto* function) { return torch::dispatch(c10::DispatchKey::CPU, function); };
  library.def("add_norm_forward", cpu(add_norm_forward));
  library.def("attention_backward", cpu(attention_backward));
  library.def("attention_forward", cpu(attention_forward));
  library.def("combine_adamw_step", cpu(combine_adamw_step));
  library.def("dropout_factors", cpu(dropout_factors));
  library.def("embedding_forward", cpu(embedding_forward));
  library.def("gelu_backward", cpu(gelu_backward));
  library.def("gelu_forward", cpu(gelu_forward));
  library.def("gram_of_flat", cpu(gram_of_flat));
  library.def("norm_backward", cpu(norm_backward));
  library.def("task_sums", cpu(task_sums));
}
