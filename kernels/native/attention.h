// Attention in which every token attends to its sequence (kernels/attention/op.py).

#pragma once

#include "dropout.h"

namespace {

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

// The heads of every sequence that has tokens, shared out to the threads by their cost; each thread has scratch of its
// own.
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
        if (cu[s + 1] > cu[s]) function(s, cu[s], cu[s + 1] - cu[s], head, scratch);
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
  const Tensor out = cleared_after(cu_seqlens, at::empty({tokens, heads, d}, qkv.options()));
  const Tensor log_sums = at::empty({heads, tokens}, at::kFloat);
  const int32_t* cu = cu_seqlens.const_data_ptr<int32_t>();
  const Dropout dropout(seed, site, threshold, factor);
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  with_type(qkv.scalar_type(), [&](auto kind) {
    using T = decltype(kind);
    const T* from = qkv.const_data_ptr<T>();
    T* to = out.mutable_data_ptr<T>();
    float* sums = log_sums.mutable_data_ptr<float>();
    for_heads(cu, cu_seqlens.numel() - 1, heads, [&](int64_t, int64_t start, int64_t length, int64_t head, auto& scratch) {
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
    for_heads(cu, cu_seqlens.numel() - 1, heads, [&](int64_t, int64_t start, int64_t length, int64_t head, auto& scratch) {
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

}  // namespace
