// Activations that a fused op applies to its results, and the functions they need. Each call
// computes a register of numbers.

#pragma once

#include <algorithm>
#include <cmath>

#include "simd.h"

namespace speechkit {

enum Activation : int64_t { NONE, RELU, CLAMP, SILU, SIGMOID, TANH, GELU, GELU_TANH, PIECES };

typedef Vector<float>::type Register;
typedef Vector<int32_t>::type Integers;
constexpr int64_t LANES = Vector<float>::lanes;

// f(x) of `count` numbers into `to`, which may be x.
template <class F>
inline void map(const float* x, int64_t count, float* to, F f) {
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES) store(to + i, f(load(x + i)));
  if (i < count) {
    float rest[LANES] = {};
    std::memcpy(rest, x + i, sizeof(float) * (count - i));
    store(rest, f(load(rest)));
    std::memcpy(to + i, rest, sizeof(float) * (count - i));
  }
}

// e^x within 2 ulp, clamped to [e^−87, e^88]; NaN gives NaN. The polynomial is from Cephes.
inline Register exponential(Register x) {
  const Register low = Register{} - 87.3f, high = Register{} + 88.0f,
                 magic = Register{} + 12582912.0f;
  Register within = x < low ? low : x;
  within = within > high ? high : within;
  // to add and subtract 1.5 · 2^23 rounds to an integer
  const Register n = (within * 1.44269504f + magic) - magic;
  const Register r = (within - n * 0.693359375f) + n * 2.12194440e-4f;
  Register p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1;
  const Integers whole = __builtin_convertvector(x == x ? n : Register{}, Integers);
  return x == x ? p * (Register)((whole + 127) << 23) : x;
}

// ln x within 2 ulp; x that is not positive counts as the smallest number; NaN gives NaN. The
// polynomial is from Cephes.
inline Register logarithm(Register x) {
  const Register smallest = Register{} + 1.17549435e-38f;
  const Register positive = x > smallest ? x : smallest;
  // the mantissa between sqrt(1/2) and sqrt(2)
  const Integers bits = (Integers)positive, exponent = (bits - 0x3f3504f3) >> 23;
  const Register m = (Register)(bits - (exponent << 23)) - 1;
  Register p = m * 7.0376836292e-2f - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  const Register n = __builtin_convertvector(exponent, Register), square = m * m;
  const Register y = m + (p * m * square - n * 2.12194440e-4f - square * 0.5f) + n * 0.693359375f;
  return x == x ? y : x;
}

inline Register sigmoid(Register x) { return 1 / (1 + exponential(-x)); }

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
    case TANH:
      for (int64_t i = 0; i < count; ++i) x[i] = std::tanh(x[i]);
      break;
    case GELU:
      for (int64_t i = 0; i < count; ++i) x[i] *= (1 + std::erf(x[i] * 0.70710678f)) / 2;
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
