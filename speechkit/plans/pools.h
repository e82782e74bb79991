// Averages over time.

#pragma once

#include "memory.h"
#include "past.h"

namespace speechkit {

// The mean of the valid ones of the last `taps` rows, at each `stride`-th row.
inline void prepare_sliding_average(Loader& loader, Instruction& op) {
  expect(op.width_in > 1 && op.channels == op.channels_in, "its channels differ from its input's");
  loader.past(op);
  expect(op.taps >= 1, "it has no taps");
  expect_past(op, product(op.rows - 1, op.stride) + op.taps - 1);
  expect_past(op, op.left + (op.rows - 1) * op.stride);
}

inline void run_sliding_average(const Instruction& op, const Memory& m) {
  const Past past = slide(op, m, true);
  for (int64_t r = 0; r < op.rows; ++r) {
    float count = 0;
    for (int64_t k = 0; k < op.taps; ++k) count += past.flags[r * op.stride + k];
    const float scale = 1 / std::max(count, 1.0f);
    for (int64_t c = 0; c < op.width; c += LANES) {
      const float* from = past.rows + c / LANES * past.pitch + r * op.stride * LANES;
      Register sum = {};
      for (int64_t k = 0; k < op.taps; ++k) sum += load(from + k * LANES);
      store(m.out + r * op.width + c, sum * scale);
    }
  }
  mark(op, m, past.flags, op.left, op.stride);
}

// The mean of the valid rows so far. Sum and count are compensated, as in memory.h; state: the sum and
// its rest [channels] each, the count and its rest
inline void prepare_running_average(Loader& loader, Instruction& op) {
  loader.state(op, product(2, op.width + 1));
}

inline void run_running_average(const Instruction& op, const Memory& m) {
  float *sum = m.state, *rest = sum + op.width, *count = rest + op.width;
  for (int64_t r = 0; r < op.rows; ++r) {
    const float* x = m.in + r * op.width;
    float* y = m.out + r * op.width;
    if (m.valid[r] != 0) {
      for (int64_t c = 0; c < op.width; ++c) add_to(sum[c], rest[c], x[c]);
      add_to(count[0], count[1], 1.0f);
    }
    const float share = std::max(count[0], 1.0f);
    for (int64_t c = 0; c < op.width; ++c) y[c] = sum[c] / share;
  }
  mark_alike(op, m);
}

}  // namespace speechkit
