// Sums over the rows of each task (kernels/deposits.py).

#pragma once

#include "vectors.h"

namespace {

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

}  // namespace
