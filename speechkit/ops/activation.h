// Activations that a fused op applies to its results.

#pragma once

#include "vector_math.h"

namespace speechkit {

enum Activation : int64_t { NONE, RELU, CLAMP, SILU, SIGMOID, TANH, GELU, GELU_TANH, PIECES };

// Polynomials between bounds: parameters [count, bounds…, then for each of count + 1 pieces its
// degree and three coefficients, the constant first].
inline Register pieces(const float* parameters, Register x) {
  const int64_t bounds = int64_t(parameters[0]);
  Register y = x;
  for (int64_t i = 0; i <= bounds; ++i) {
    const float* c = parameters + 1 + bounds + 4 * i;
    // a zero coefficient is not multiplied: x may be infinite
    Register piece = Register{} + c[1];
    if (c[0] >= 1) piece += x * c[2];
    if (c[0] >= 2) piece += x * x * c[3];
    y = i == 0 ? (x == x ? piece : x) : x >= parameters[i] ? piece : y;
  }
  return y;
}

// In place; NaN gives NaN.
inline void activate(int64_t kind, const float* numbers, float* x, int64_t count) {
  switch (kind) {
    case RELU: map(x, count, x, [](Register v) { return v < 0 ? Register{} : v; }); break;
    case CLAMP: {
      const Register low = Register{} + numbers[0], high = Register{} + numbers[1];
      map(x, count, x, [=](Register v) {
        v = v < low ? low : v;
        return v > high ? high : v;
      });
      break;
    }
    case SILU: map(x, count, x, [=](Register v) { return v * sigmoid(v * numbers[0]); }); break;
    case SIGMOID: map(x, count, x, sigmoid); break;
    case TANH: map(x, count, x, hyperbolic_tangent); break;
    case GELU:
      map(x, count, x, [](Register v) { return v * (1 + error_function(v * 0.70710678f)) * 0.5f; });
      break;
    case GELU_TANH:
      map(x, count, x,
          [](Register v) { return v * sigmoid((v + v * v * v * 0.044715f) * 1.59576912f); });
      break;
    case PIECES: map(x, count, x, [=](Register v) { return pieces(numbers, v); }); break;
    default: break;
  }
}

}  // namespace speechkit
