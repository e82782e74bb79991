// Functions of a register of floats, within about 2 ulp; NaN gives NaN. The polynomials are from
// Cephes, those of erf are fits by Lawson's method.

#pragma once

#include <algorithm>
#include <cmath>

#include "simd.h"

namespace speechkit {

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

inline Register constant(float value) { return Register{} + value; }

// c0 + c1 x + c2 x² …
inline Register polynomial(Register, float c0) { return constant(c0); }
template <class... C>
inline Register polynomial(Register x, float c0, C... rest) {
  return polynomial(x, rest...) * x + c0;
}

// A function of the standard library in every lane, one instruction on most processors.
template <class F>
inline Register each(Register x, F f) {
  float lanes[LANES];
  store(lanes, x);
  for (int64_t i = 0; i < LANES; ++i) lanes[i] = f(lanes[i]);
  return load(lanes);
}

inline Register absolute(Register x) { return (Register)((Integers)x & 0x7fffffff); }
inline Register with_sign(Register x, Register sign) {
  return (Register)(((Integers)x & 0x7fffffff) | ((Integers)sign & int32_t(0x80000000)));
}
inline Register root(Register x) {
  return each(x, [](float v) { return std::sqrt(v); });
}
inline Register round_even(Register x) {
  return each(x, [](float v) { return std::nearbyint(v); });
}
inline Register round_down(Register x) {
  const Register y = round_even(x);
  return y > x ? y - 1 : y;
}

// The integer nearest to x where |x| < 2^22: adding and subtracting 1.5 · 2^23 rounds.
inline Register nearest(Register x) {
  const Register magic = constant(12582912.0f);
  return (x + magic) - magic;
}

inline Integers whole(Register x) {
  return __builtin_convertvector(x == x ? x : Register{}, Integers);
}

// 2^n for whole n from −126 to 127.
inline Register power_of_two(Integers n) { return (Register)((n + 127) << 23); }

// (e^r − 1 − r) / r² for |r| ≤ ln(2) / 2.
inline Register exponential_tail(Register r) {
  return polynomial(r, 5.0000001201e-1f, 1.6666665459e-1f, 4.1665795894e-2f, 8.3334519073e-3f,
                    1.3981999507e-3f, 1.9875691500e-4f);
}

// x = n ln 2 + r with whole n.
inline Register halved(Register x, Register& n) {
  n = nearest(x * 1.44269504f);
  return (x - n * 0.693359375f) + n * 2.12194440e-4f;
}

inline Register exponential(Register x) {
  const Register low = constant(-104.0f), high = constant(89.0f);
  Register within = x < low ? low : x;
  within = within > high ? high : within;
  Register n;
  const Register r = halved(within, n), y = exponential_tail(r) * r * r + r + 1;
  // in two factors: 2^n itself may be above or below all numbers
  const Integers all = whole(n), half = all >> 1;
  return y * power_of_two(half) * power_of_two(all - half);
}

// e^x − 1, exact near 0 too.
inline Register exponential_minus_1(Register x) {
  const Register low = constant(-60.0f), high = constant(80.0f);
  Register within = x < low ? low : x;
  within = within > high ? high : within;
  Register n;
  const Register r = halved(within, n), scale = power_of_two(whole(n));
  const Register y = (exponential_tail(r) * r * r + r) * scale + (scale - 1);
  return x > high ? exponential(x) : y;
}

// ln x; x that is not positive counts as the smallest number.
inline Register logarithm(Register x) {
  const Register smallest = constant(1.17549435e-38f);
  const Register positive = x > smallest ? x : smallest;
  // the mantissa between sqrt(1/2) and sqrt(2)
  const Integers bits = (Integers)positive, exponent = (bits - 0x3f3504f3) >> 23;
  const Register m = (Register)(bits - (exponent << 23)) - 1;
  const Register p = polynomial(m, 3.3333331174e-1f, -2.4999993993e-1f, 2.0000714765e-1f,
                                -1.6668057665e-1f, 1.4249322787e-1f, -1.2420140846e-1f,
                                1.1676998740e-1f, -1.1514610310e-1f, 7.0376836292e-2f);
  const Register n = __builtin_convertvector(exponent, Register), square = m * m;
  const Register y = m + (p * m * square - n * 2.12194440e-4f - square * 0.5f) + n * 0.693359375f;
  return x == x ? y : x;
}

// ln x: −∞ at 0, NaN below.
inline Register natural_logarithm(Register x) {
  // numbers below the smallest normal one are multiplied by 2^24
  const Integers small = x < 1.17549435e-38f;
  const Register y = logarithm(small ? x * 16777216.0f : x), infinite = constant(INFINITY);
  const Register within = small ? y - 16.6355323f : y;
  return x == 0 ? -infinite : x < 0 ? constant(NAN) : x == infinite ? x : within;
}

// ln(1 + x), exact near 0 too (Kahan).
inline Register logarithm_of_1_plus(Register x) {
  const Register u = x + 1, y = natural_logarithm(u), d = u - 1;
  const Register exact = y * x / d;
  return d == 0 ? x : d == constant(INFINITY) || u == 0 ? y : exact;
}

inline Register sigmoid(Register x) { return 1 / (1 + exponential(-x)); }

inline Register hyperbolic_tangent(Register x) {
  const Register square = x * x, size = absolute(x);
  const Register near = polynomial(square, -3.33332819422e-1f, 1.33314422036e-1f,
                                   -5.37397155531e-2f, 2.06390887954e-2f, -5.70498872745e-3f) *
                            square * x +
                        x;
  const Register far = with_sign(1 - 2 / (exponential(size + size) + 1), x);
  return size < 0.625f ? near : x == x ? far : x;
}

inline Register error_function(Register x) {
  const Register square = x * x, size = absolute(x);
  const Register near = polynomial(square, 0.12837915122509003f, -0.3761252462863922f,
                                   0.11282140761613846f, -0.02677891217172146f,
                                   0.005011966917663813f, -0.0006090379320085049f) *
                            x +
                        x;
  // the polynomial is ln erfc up to 4; beyond that, erf is 1
  const Register end = constant(4.0f), t = size > end ? end : size;
  const Register tail = polynomial(t, -0.00016644777497276664f, -1.127797245979309f,
                                   -0.6369760632514954f, -0.10411367565393448f,
                                   0.022315213456749916f, -0.0030654901638627052f,
                                   0.00019821965543087572f);
  const Register far = with_sign(1 - exponential(tail), x);
  return size < 0.9f ? near : x == x ? far : x;
}

// sin x if `quarter` is 0, cos x if it is 1; angles beyond `FAR` are given to the library.
constexpr float FAR = 8192.0f;
template <int quarter>
inline Register sinusoid(Register x) {
  const Integers far = absolute(x) > FAR;
  const Register near = far ? Register{} : x, q = nearest(near * 0.636619772f);
  // π / 2 in parts whose products with q are exact
  const Register r = ((near - q * 1.5703125f) - q * 4.837512969970703125e-4f) -
                     q * 7.549533620476723e-08f - q * 2.5632829192545614e-12f;
  const Register z = r * r;
  const Register sine =
      polynomial(z, -1.6666654611e-1f, 8.3321608736e-3f, -1.9515295891e-4f) * z * r + r;
  const Register cosine =
      polynomial(z, 4.166664568298827e-2f, -1.388731625493765e-3f, 2.443315711809948e-5f) * z * z -
      z * 0.5f + 1;
  const Integers turns = whole(q) + quarter;
  Register y = (turns & 1) != 0 ? cosine : sine;
  y = (turns & 2) != 0 ? -y : y;
  bool any = false;
  for (int64_t i = 0; i < LANES; ++i) any |= far[i] != 0;
  if (any)
    for (int64_t i = 0; i < LANES; ++i)
      if (far[i]) y[i] = quarter ? std::cos(x[i]) : std::sin(x[i]);
  return y;
}

inline Register arctangent(Register x) {
  const Register size = absolute(x);
  const Integers large = size > 2.414213562f, middle = size > 0.4142135624f;
  const Register t = large ? -1 / size : middle ? (size - 1) / (size + 1) : size, z = t * t;
  const Register y = polynomial(z, -3.33329491539e-1f, 1.99777106478e-1f, -1.38776856032e-1f,
                                8.05374449538e-2f) *
                         z * t +
                     t;
  const Register from = large ? constant(1.5707963268f) : constant(0.7853981634f);
  return with_sign(middle ? y + from : y, x);
}

// NaN beyond ±1.
inline Register arcsine(Register x) {
  const Register size = absolute(x);
  const Integers outer = size > 0.5f;
  const Register z = outer ? (1 - size) * 0.5f : size * size, t = outer ? root(z) : size;
  const Register y = polynomial(z, 1.6666752422e-1f, 7.4953002686e-2f, 4.5470025998e-2f,
                                2.4181311049e-2f, 4.2163199048e-2f) *
                         z * t +
                     t;
  const Register folded = constant(1.5707963268f) - (y + y);
  return with_sign(outer ? folded : y, x);
}

// a^b for a ≥ 0, NaN below; within about |b ln a| ulp.
inline Register power(Register a, Register b) {
  const Register y = exponential(b * natural_logarithm(a));
  const Register one = constant(1.0f);
  return b == 0 || a == 1 ? (a == a ? one : a) : y;
}

inline Register largest(Register a, Register b) { return b == b ? (a < b ? b : a) : b; }
inline Register smallest(Register a, Register b) { return b == b ? (a > b ? b : a) : b; }
inline Register sign_of(Register x) {
  return x > 0 ? constant(1.0f) : x < 0 ? constant(-1.0f) : x;
}

}  // namespace speechkit
