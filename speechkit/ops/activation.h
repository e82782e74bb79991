// Activations that a fused op applies to its results.

#pragma once

#include "elementwise.h"

namespace speechkit {

// In the order of KINDS in activation.py.
enum Activation : int64_t { NONE, RELU, PROGRAM };

// Applies an activation in place to rows of `channels` numbers that are `step` apart; `numbers` are
// those of a PROGRAM.
inline void activate(int64_t kind, const float* numbers, float* x, int64_t rows, int64_t channels,
                     int64_t step) {
  if (kind == NONE) return;
  if (kind == PROGRAM) {
    elementwise(code_at(numbers, channels, false), x, nullptr, step, rows, channels, x, step);
    return;
  }
  for (int64_t r = 0; r < rows; ++r)
    map(x + r * step, channels, x + r * step, [](Register v) { return v < 0 ? Register{} : v; });
}

}  // namespace speechkit
