// Norms: with the statistics of each row, and of all rows so far.

#pragma once

#include "loader.h"

namespace speechkit {

// The sum of a register's lanes.
inline float across(Register sum) {
  float parts[LANES];
  store(parts, sum);
  for (int64_t half = LANES / 2; half; half /= 2)
    for (int64_t j = 0; j < half; ++j) parts[j] += parts[j + half];
  return parts[0];
}

// Σ f(x) over `count` numbers; f takes a register or a number.
template <class F>
inline float total(const float* x, int64_t count, F f) {
  Register sum = {};
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES) sum += f(load(x + i));
  float rest = 0;
  for (; i < count; ++i) rest += f(x[i]);
  return count < LANES ? rest : across(sum) + rest;
}

// Around the first number, so that rounding is small beside the spread, and none where all are equal.
inline float mean(const float* x, int64_t count) {
  const float first = x[0];
  return first + total(x, count, [=](auto v) { return v - first; }) / float(count);
}

// The mean of (x − centre)².
inline float spread(const float* x, int64_t count, float centre) {
  return total(x, count, [=](auto v) { return (v - centre) * (v - centre); }) / float(count);
}

// y = (x − centre) · factor · scale + shift of `count` numbers; y may be x.
inline void standardize(const float* x, int64_t count, float centre, float factor,
                        const float* scale, const float* shift, float* y) {
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES)
    store(y + i, (load(x + i) - centre) * factor * load(scale + i) + load(shift + i));
  for (; i < count; ++i) y[i] = (x[i] - centre) * factor * scale[i] + shift[i];
}

// For each of `size` groups of a row's channels: y = (x − μ) / √(v + eps) · scale + shift. v is the
// mean of (x − μ)² over the first `taps` channels of the group. numbers: eps, whether μ is their
// mean (else 0), and whether eps is added to the root instead; weights [2, channels]
inline void prepare_normalize(Loader& loader, Instruction& op) {
  expect(op.width_in > 1, "it takes channels, not sound");
  expect(op.size >= 1 && op.channels % op.size == 0, "its channels do not divide by its groups");
  expect(op.taps >= 1 && op.taps <= op.channels / op.size, "it counts more channels than there are");
  op.table = loader.table(op.weights, 2, op.channels, op.width);
  op.parameters = loader.table(op.numbers, 1, 3, COLUMNS);
}

inline void run_normalize(const Instruction& op, const Memory& m) {
  const int64_t each = op.channels / op.size;
  const float eps = op.parameters[0];
  const bool centred = op.parameters[1] != 0, outside = op.parameters[2] != 0;
  for (int64_t r = 0; r < op.rows; ++r)
    for (int64_t c = 0; c < op.channels; c += each) {
      const float* x = m.in + r * op.width + c;
      const float centre = centred ? mean(x, op.taps) : 0, v = spread(x, op.taps, centre);
      const float factor = 1 / (outside ? std::sqrt(v) + eps : std::sqrt(v + eps));
      standardize(x, each, centre, factor, op.table + c, op.table + op.width + c,
                  m.out + r * op.width + c);
    }
  mark_alike(op, m);
}

// y = the largest channel of the row, in every channel
inline void prepare_largest(Loader&, Instruction& op) {
  expect(op.width_in > 1, "it takes channels, not sound");
}

inline void run_largest(const Instruction& op, const Memory& m) {
  for (int64_t r = 0; r < op.rows; ++r) {
    const float* x = m.in + r * op.width;
    const int64_t whole = op.channels / LANES * LANES;
    float top = *std::max_element(x + whole - (whole ? LANES : 0), x + op.channels);
    Register parts = constant(top);
    for (int64_t c = 0; c < whole; c += LANES) {
      const Register v = load(x + c);
      parts = parts < v ? v : parts;
    }
    for (int64_t i = 0; i < LANES; ++i) top = std::max(top, parts[i]);
    std::fill_n(m.out + r * op.width, op.width, top);
  }
  mark_alike(op, m);
}

// y = (x − μ) / √(v + eps) · scale + shift per channel, where at each valid row
//     n = a n + 1,  v = v + ((1 − 1 / n) (x − μ)² − v) / n with the μ before,  μ = μ + (x − μ) / n
// Sums instead of means would be divided by an n that rounding holds still, to 1e-4 of a mean.
// numbers: a, n at first, eps; filters [2, channels]: μ and v at first; weights [2, channels];
// state: μ, v, n
inline void prepare_running_norm(Loader& loader, Instruction& op) {
  expect(op.width_in > 1, "it takes channels, not sound");
  op.table = loader.table(op.weights, 2, op.channels, op.width);
  op.parameters = loader.table(op.numbers, 1, 3, COLUMNS);
  const float* first = loader.numbers(op.filters, product(2, op.channels));
  float* state = loader.state(op, 2 * op.width + 1);
  for (int64_t c = 0; c < op.channels; ++c) {
    state[c] = first[c];
    state[op.width + c] = first[op.channels + c];
  }
  state[2 * op.width] = op.parameters[1];
}

inline void run_running_norm(const Instruction& op, const Memory& m) {
  const float decay = op.parameters[0], eps = op.parameters[2];
  float *centre = m.state, *v = m.state + op.width, &n = m.state[2 * op.width];
  const float *scale = op.table, *shift = op.table + op.width;
  for (int64_t r = 0; r < op.rows; ++r) {
    const float* x = m.in + r * op.width;
    if (m.valid[r] != 0) {
      n = decay * n + 1;
      const float part = 1 / n;
      for (int64_t c = 0; c < op.width; ++c) {
        const float surprise = x[c] - centre[c];
        v[c] += ((1 - part) * surprise * surprise - v[c]) * part;
        centre[c] += surprise * part;
      }
    }
    float* y = m.out + r * op.width;
    for (int64_t c = 0; c < op.width; ++c)
      y[c] = (x[c] - centre[c]) / std::sqrt(v[c] + eps) * scale[c] + shift[c];
  }
  mark_alike(op, m);
}

// y = (x − μ) / √(v + eps) · scale + shift with the mean and variance of all channels of the valid
// rows so far (Chan et al., 1983). numbers: eps; weights [2, channels]; state: rows, μ, v
inline void prepare_cumulative_norm(Loader& loader, Instruction& op) {
  expect(op.width_in > 1, "it takes channels, not sound");
  op.table = loader.table(op.weights, 2, op.channels, op.width);
  op.parameters = loader.table(op.numbers, 1, 1, COLUMNS);
  loader.state(op, 3);
}

inline void run_cumulative_norm(const Instruction& op, const Memory& m) {
  float &rows = m.state[0], &centre = m.state[1], &variance = m.state[2];
  for (int64_t r = 0; r < op.rows; ++r) {
    const float* x = m.in + r * op.width;
    if (m.valid[r] != 0) {
      const float own = mean(x, op.channels), off = own - centre;
      rows += 1;
      const float added = spread(x, op.channels, own) + (1 - 1 / rows) * off * off;
      variance += (added - variance) / rows;
      centre += off / rows;
    }
    standardize(x, op.channels, centre, 1 / std::sqrt(variance + op.parameters[0]), op.table,
                op.table + op.width, m.out + r * op.width);
  }
  mark_alike(op, m);
}

}  // namespace speechkit
