// Instructions that move channels and rows.

#pragma once

#include "past.h"

namespace speechkit {

// The channels from `size` on, and 0 beyond the last.
inline void prepare_part(Loader&, Instruction& op) {
  expect(op.width_in > 1 && op.rows == op.rows_in, "its rows differ from its input's");
  expect(op.size < op.channels_in, "it begins after the last channel");
}

inline void run_part(const Instruction& op, const Memory& m) {
  const int64_t copied = std::min(op.channels, op.channels_in - op.size);
  for (int64_t r = 0; r < op.rows; ++r) {
    float* to = m.out + r * op.width;
    std::memcpy(to, m.in + r * op.width_in + op.size, sizeof(float) * copied);
    std::memset(to + copied, 0, sizeof(float) * (op.width - copied));
  }
  mark_alike(op, m);
}

// The channels again and again.
inline void prepare_repeat(Loader&, Instruction& op) {
  expect(op.width_in > 1 && op.rows == op.rows_in, "its rows differ from its input's");
  expect(op.channels % op.channels_in == 0, "its channels are no multiple of its input's");
}

inline void run_repeat(const Instruction& op, const Memory& m) {
  for (int64_t r = 0; r < op.rows; ++r)
    for (int64_t c = 0; c < op.channels; c += op.channels_in)
      std::memcpy(m.out + r * op.width + c, m.in + r * op.width_in, sizeof(float) * op.channels_in);
  mark_alike(op, m);
}

// The inverse shape: y[c] = Σ_g x[g · channels + c].
inline void prepare_fold(Loader&, Instruction& op) {
  expect(op.width_in > 1 && op.width > 1 && op.rows == op.rows_in,
         "its rows differ from its input's");
  expect(op.channels_in % op.channels == 0, "its input's channels are no multiple of its own");
}

inline void run_fold(const Instruction& op, const Memory& m) {
  for (int64_t r = 0; r < op.rows; ++r) {
    const float* from = m.in + r * op.width_in;
    float* __restrict__ to = m.out + r * op.width;
    std::memcpy(to, from, sizeof(float) * op.channels);
    for (int64_t start = op.channels; start < op.channels_in; start += op.channels)
      for (int64_t c = 0; c < op.channels; ++c) to[c] += from[start + c];
  }
  mark_alike(op, m);
}

// Each row's equal parts of channels as rows of their own, which are valid if it is.
inline void prepare_spread(Loader&, Instruction& op) {
  expect(op.width_in > 1 && op.width > 1, "it takes channels, not sound");
  expect(op.rows % op.rows_in == 0 && op.channels_in == product(op.channels, op.rows / op.rows_in),
         "its rows are not parts of its input's");
}

inline void run_spread(const Instruction& op, const Memory& m) {
  const int64_t parts = op.rows / op.rows_in;
  for (int64_t r = 0; r < op.rows; ++r) {
    float* to = m.out + r * op.width;
    std::memcpy(to, m.in + r / parts * op.width_in + r % parts * op.channels,
                sizeof(float) * op.channels);
    std::memset(to + op.channels, 0, sizeof(float) * (op.width - op.channels));
    m.out_valid[r] = m.valid[r / parts];
  }
}

// y = (x, other) along the channels
inline void prepare_join(Loader&, Instruction& op) {
  expect(op.second >= 0, "it needs two inputs");
  expect(op.width_in > 1 && op.rows == op.rows_in, "its rows differ from its input's");
}

inline void run_join(const Instruction& op, const Memory& m) {
  const int64_t rest = op.channels - op.channels_in, width = padded(rest);
  for (int64_t r = 0; r < op.rows; ++r) {
    float* to = m.out + r * op.width;
    std::memcpy(to, m.in + r * op.width_in, sizeof(float) * op.channels_in);
    std::memcpy(to + op.channels_in, m.second + r * width, sizeof(float) * rest);
  }
  mark_alike(op, m);
}

// The window of each output row, `taps` rows one after another along the channels; invalid rows are 0.
inline void prepare_unfold(Loader& loader, Instruction& op) {
  expect(op.width_in > 1, "it takes channels, not sound");
  expect(op.taps >= 1 && op.channels == product(op.taps, op.channels_in),
         "its channels are not those of its taps");
  loader.past(op);
  expect_past(op, product(op.rows - 1, op.stride) + product(op.taps - 1, op.dilation));
  expect_past(op, op.left + (op.rows - 1) * op.stride);
}

inline void run_unfold(const Instruction& op, const Memory& m) {
  const Past past = slide(op, m, true);
  for (int64_t r = 0; r < op.rows; ++r)
    for (int64_t k = 0; k < op.taps; ++k) {
      const float* from = past.rows + (r * op.stride + k * op.dilation) * LANES;
      float* to = m.out + r * op.width + k * op.channels_in;
      for (int64_t c = 0; c < op.channels_in; c += LANES)
        std::memcpy(to + c, from + c / LANES * past.pitch,
                    sizeof(float) * std::min(LANES, op.channels_in - c));
    }
  mark(op, m, past.flags, op.left, op.stride);
}

}  // namespace speechkit
