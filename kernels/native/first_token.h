// Attention in which the first token of each sequence alone attends to its sequence (kernels/attention/op.py).

#pragma once

#include "attention.h"

namespace {

// The product of a row with `wide` fp32 elements; what is beyond d reads as zero.
template <class T>
inline float product(const T* row, const float* with, int64_t d) {
  V total(0.0f);
  for (int64_t at = 0; at < d; at += kWidth) {
    total = at::vec::fmadd(load(row + at, count_at(at, d)), load(with + at), total);
  }
  return sum_of(total);
}

std::tuple<Tensor, Tensor, Tensor> first_token_forward(const Tensor& q_given, const Tensor& kv_given,
                                                       const Tensor& cu_seqlens, Optional seed, int64_t site,
                                                       int64_t threshold, double factor) {
  const Tensor q = q_given.contiguous(), kv = kv_given.contiguous();
  const int64_t sequences = q.size(0), heads = q.size(1), d = q.size(2), wide = whole(d);
  // A sequence without tokens gives zeros.
  const Tensor out = at::zeros(q.sizes(), q.options()), exact = at::zeros(q.sizes(), at::kFloat);
  const Tensor log_sums = at::zeros({sequences, heads}, at::kFloat);
  const Dropout dropout(seed, site, threshold, factor);
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  with_type(q.scalar_type(), [&](auto kind) {
    using T = decltype(kind);
    const T *queries = q.const_data_ptr<T>(), *from = kv.const_data_ptr<T>();
    T* to = out.mutable_data_ptr<T>();
    float *unrounded = exact.mutable_data_ptr<float>(), *sums = log_sums.mutable_data_ptr<float>();
    for_heads(cu_seqlens.const_data_ptr<int32_t>(), sequences, heads,
              [&](int64_t sequence, int64_t start, int64_t length, int64_t head, auto& scratch) {
      const int64_t own = (sequence * heads + head) * d, stride = 2 * heads * d;
      scratch.resize(2 * wide + whole(length) + length + 8 * kWidth);
      float *query = scratch.data(), *result = query + wide, *p = result + wide, *factors = p + whole(length);
      read_rows(queries + own, d, 1, d, wide, query);
      const T *keys = from + start * stride + head * d, *values = keys + heads * d;
      float highest = -std::numeric_limits<float>::infinity();
      for (int64_t key = 0; key < length; key++) {
        p[key] = product(keys + key * stride, query, d) * scale;
        highest = std::max(highest, p[key]);
      }
      V total(0.0f);
      for (int64_t at = 0; at < length; at += kWidth) {
        const V value = V::set(V(0.0f), (load(p + at) - V(highest)).exp_u20(), count_at(at, length));
        value.store(p + at);
        total = total + value;
      }
      const float sum = sum_of(total);
      sums[sequence * heads + head] = highest + std::log(sum);
      if (dropout.on) attention_factors(dropout, start, heads, head, length, factors);
      std::fill(result, result + wide, 0.0f);
      for (int64_t key = 0; key < length; key++) {
        const V share(p[key] / sum * (dropout.on ? factors[key] : 1.0f));
        for (int64_t at = 0; at < d; at += kWidth) {
          at::vec::fmadd(share, load(values + key * stride + at, count_at(at, d)), load(result + at)).store(result + at);
        }
      }
      write_rows(result, wide, 1, d, to + own, d);
      write_rows(result, wide, 1, d, unrounded + own, d);
    });
  });
  return {out, exact, log_sums};
}

std::tuple<Tensor, Tensor> first_token_backward(const Tensor& d_out_given, const Tensor& q_given, const Tensor& kv_given,
                                                const Tensor& exact, const Tensor& log_sums, const Tensor& cu_seqlens,
                                                Optional seed, int64_t site, int64_t threshold, double factor) {
  const Tensor q = q_given.contiguous(), kv = kv_given.contiguous(), d_out = d_out_given.contiguous();
  const int64_t sequences = q.size(0), heads = q.size(1), d = q.size(2), wide = whole(d);
  const Tensor d_q = at::zeros(q.sizes(), q.options()), d_kv = cleared_after(cu_seqlens, at::empty_like(kv));
  const Dropout dropout(seed, site, threshold, factor);
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  with_type(q.scalar_type(), [&](auto kind) {
    using T = decltype(kind);
    const T *queries = q.const_data_ptr<T>(), *from = kv.const_data_ptr<T>(), *gradients = d_out.const_data_ptr<T>();
    T *to_q = d_q.mutable_data_ptr<T>(), *to = d_kv.mutable_data_ptr<T>();
    const float *results = exact.const_data_ptr<float>(), *sums = log_sums.const_data_ptr<float>();
    for_heads(cu_seqlens.const_data_ptr<int32_t>(), sequences, heads,
              [&](int64_t sequence, int64_t start, int64_t length, int64_t head, auto& scratch) {
      const int64_t own = (sequence * heads + head) * d, stride = 2 * heads * d;
      scratch.resize(3 * wide + whole(length) + length + 8 * kWidth);
      float *query = scratch.data(), *upstream = query + wide, *d_query = upstream + wide, *p = d_query + wide;
      float* factors = p + whole(length);
      read_rows(queries + own, d, 1, d, wide, query);
      read_rows(gradients + own, d, 1, d, wide, upstream);
      const int64_t first = start * stride + head * d, beside = heads * d;
      const V log_sum(sums[sequence * heads + head]);
      for (int64_t key = 0; key < length; key++) p[key] = product(from + first + key * stride, query, d) * scale;
      for (int64_t at = 0; at < length; at += kWidth) (load(p + at) - log_sum).exp_u20().store(p + at);
      if (dropout.on) attention_factors(dropout, start, heads, head, length, factors);
      const float delta = product(results + own, upstream, d);
      std::fill(d_query, d_query + wide, 0.0f);
      for (int64_t key = 0; key < length; key++) {
        const int64_t place = first + key * stride;
        const float kept = dropout.on ? factors[key] : 1.0f, dropped = p[key] * kept;
        const V slope(p[key] * (product(from + place + beside, upstream, d) * kept - delta) * scale);
        for (int64_t at = 0; at < d; at += kWidth) {
          const int64_t count = count_at(at, d);
          at::vec::fmadd(slope, load(from + place + at, count), load(d_query + at)).store(d_query + at);
          store(to + place + at, slope * load(query + at), count);
          store(to + place + beside + at, V(dropped) * load(upstream + at), count);
        }
      }
      write_rows(d_query, wide, 1, d, to_q + own, d);
    });
  });
  return {d_q, d_kv};
}

}  // namespace
