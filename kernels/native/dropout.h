// Dropout's bits: Philox4x32-7, eight elements a call, kWidth calls at once (kernels/dropout.py).

#pragma once

#include "vectors.h"

namespace {

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
