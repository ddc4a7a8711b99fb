// Embedding sum + LayerNorm + dropout, and the gradients of its tables (kernels/embedding.py).

#pragma once

#include "layer_norm.h"

namespace {

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

// A table's task gradients [tasks, size, columns], and which of their chunks hold anything, where flags are kept.
struct Table {
  const Tensor& gradients;
  Optional touched;
};

// Zero the gradients, where there are flags only in the chunks that these name; the flags too.
template <class G>
void clear(const Table& table) {
  const int64_t tasks = table.gradients.size(0), size = table.gradients.size(1) * table.gradients.size(2);
  const int64_t stride = table.gradients.stride(0), chunks = (size + kChunk - 1) / kChunk;
  G* to = table.gradients.mutable_data_ptr<G>();
  uint8_t* flags = table.touched ? table.touched->mutable_data_ptr<uint8_t>() : nullptr;
  const int64_t apart = flags ? table.touched->stride(0) : 0;
  at::parallel_for(0, tasks * chunks, 256, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; index++) {
      const int64_t task = index / chunks, chunk = index % chunks;
      if (flags && !flags[task * apart + chunk]) continue;
      const int64_t first = chunk * kChunk;
      std::fill_n(to + task * stride + first, std::min(kChunk, size - first), G(0.0f));
      if (flags) flags[task * apart + chunk] = 0;
    }
  });
}

// Add the rows of `values` to those of each task's table that `indices` name. Rows of the same task and index are added
// up in their order, so that the same call gives the same bits; rows of no task are left out.
template <class T, class G>
void add_rows(const Table& table, const Tensor& values, const Tensor& indices, const Tensor& offsets) {
  const int64_t tasks = offsets.numel() - 1, size = table.gradients.size(1), columns = values.size(1);
  const int32_t *bounds = offsets.const_data_ptr<int32_t>(), *index = indices.const_data_ptr<int32_t>();
  // A key sorts by task, by index and by row: a run of keys that differ in their rows alone is one row of a table.
  std::vector<std::pair<int64_t, int64_t>> keys;
  for (int64_t task = 0; task < tasks; task++) {
    for (int64_t row = bounds[task]; row < bounds[task + 1]; row++) keys.emplace_back(task * size + index[row], row);
  }
  std::sort(keys.begin(), keys.end());
  std::vector<size_t> runs;
  for (size_t place = 0; place < keys.size(); place++) {
    if (place == 0 || keys[place].first != keys[place - 1].first) runs.push_back(place);
  }
  runs.push_back(keys.size());
  const T* from = values.const_data_ptr<T>();
  G* gradients = table.gradients.mutable_data_ptr<G>();
  const int64_t stride = table.gradients.stride(0);
  at::parallel_for(0, runs.size() - 1, kGrain, [&](int64_t begin, int64_t end) {
    std::vector<float> sums(columns);
    for (int64_t run = begin; run < end; run++) {
      const int64_t key = keys[runs[run]].first;
      G* to = gradients + key / size * stride + key % size * columns;
      std::fill(sums.begin(), sums.end(), 0.0f);
      for (size_t place = runs[run]; place < runs[run + 1]; place++) {
        const T* row = from + keys[place].second * columns;
        across(columns, [&](int64_t at, auto count) { add_to(sums.data() + at, load(row + at, count), count); });
      }
      across(columns, [&](int64_t at, auto count) {
        store(to + at, load(to + at, count) + load(sums.data() + at, count), count);
      });
    }
  });
  if (!table.touched) return;
  uint8_t* flags = table.touched->mutable_data_ptr<uint8_t>();
  for (size_t run = 0; run + 1 < runs.size(); run++) {
    const int64_t key = keys[runs[run]].first, first = key % size * columns;
    uint8_t* own = flags + key / size * table.touched->stride(0);
    std::fill(own + first / kChunk, own + (first + columns - 1) / kChunk + 1, 1);
  }
}

void table_sums(const Tensor& values_given, const Tensor& ids, const Tensor& positions, const Tensor& segments,
                const Tensor& word_gradients, const Tensor& position_gradients, const Tensor& segment_gradients,
                Optional word_touched, Optional position_touched, Optional segment_touched, const Tensor& offsets,
                bool add, bool add_words) {
  const Tensor values = values_given.contiguous();
  const Table tables[] = {{word_gradients, word_touched},
                          {position_gradients, position_touched},
                          {segment_gradients, segment_touched}};
  const Tensor indices[] = {ids.contiguous(), positions.contiguous(), segments.contiguous()};
  with_type(values.scalar_type(), [&](auto kind) {
    with_type(word_gradients.scalar_type(), [&](auto home) {
      for (int number = 0; number < 3; number++) {
        if (!add && !(add_words && number == 0)) clear<decltype(home)>(tables[number]);
        add_rows<decltype(kind), decltype(home)>(tables[number], values, indices[number], offsets);
      }
    });
  });
}

}  // namespace
