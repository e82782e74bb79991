// The past rows of an instruction, which a session's state keeps.
//
// Groups of LANES channels lie in a strip each, so that the taps of a channel are contiguous. A strip
// has room for the rows of `cycle` steps; at its end, the rows that are still needed move to the
// front. Invalid rows are zero if the instruction asks for it. Behind the strips is the validity of
// their rows.

#pragma once

#include "loader.h"

namespace speechkit {

// The past and the new rows of a layer: group g of channels starts at `rows + g · pitch`.
struct Past {
  const float* rows;
  int64_t pitch;
  const float* flags;
};

// Adds rows to the strip in the state; if `masked`, invalid rows are zero. Returns a view of the
// past and the new rows.
inline Past slide(const Instruction& op, const Memory& m, bool masked) {
  const int64_t lanes = std::min(LANES, op.width_in);
  const int64_t capacity = op.keep + op.cycle * op.rows_in, pitch = capacity * lanes;
  const int64_t start = m.steps % op.cycle * op.rows_in, last = op.cycle * op.rows_in;
  float* flags = m.state + capacity * op.width_in;
  if (start == 0) std::memmove(flags, flags + last, sizeof(float) * op.keep);
  std::memcpy(flags + start + op.keep, m.valid, sizeof(float) * op.rows_in);
  for (int64_t c = 0; c < op.width_in; c += lanes) {
    float* strip = m.state + c * capacity;
    if (start == 0) std::memmove(strip, strip + last * lanes, sizeof(float) * op.keep * lanes);
    float* to = strip + (start + op.keep) * lanes;
    if (lanes == 1) {
      for (int64_t r = 0; r < op.rows_in; ++r) to[r] = !masked || m.valid[r] != 0 ? m.in[r] : 0;
      continue;
    }
    for (int64_t r = 0; r < op.rows_in; ++r)
      store(to + r * LANES, !masked || m.valid[r] != 0 ? load(m.in + r * op.width_in + c) : Register{});
  }
  return {m.state + start * lanes, pitch, flags + start};
}

// Throws Failure unless row `row` is one that `slide` shows.
inline void expect_past(const Instruction& op, int64_t row) {
  expect(row >= 0 && row < op.keep + op.rows_in, "it reads rows that are not kept");
}

}  // namespace speechkit
