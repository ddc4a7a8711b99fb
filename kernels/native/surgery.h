// The Gram matrix of the task gradients, and the optimizer's pass (kernels/surgery).

#pragma once

#include "vectors.h"

namespace {

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

}  // namespace
