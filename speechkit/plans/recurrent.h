// Recurrences: a scan, and the cells of LSTM and GRU. An invalid row leaves their state as it is.

#pragma once

#include "norms.h"

namespace speechkit {

enum Scan : int64_t { REAL, NORMALIZED, COMPLEX };

// h = a h + u with u = x and ln a = other, both per channel; y = h. With `size` 1, u is
// √(max(1 − a², least)) x except at a session's first valid row. With `size` 2, u, a = other and h
// are complex: the first half of the channels is real. Without `other`, such an a is constant: weights
// [2, channels], a in float32 and the rest, as a rounded one is wrong again in each row. numbers:
// least; state: h, begun
inline void prepare_scan(Loader& loader, Instruction& op) {
  expect(op.width_in > 1, "it takes channels, not sound");
  expect(op.size <= COMPLEX, "there is no such scan");
  expect(op.size == COMPLEX || op.second >= 0, "it needs two inputs");
  expect(op.size != COMPLEX || op.channels % 2 == 0, "its channels are not pairs");
  if (op.second < 0) op.table = loader.table(op.weights, 2, op.channels, op.width);
  if (op.size == NORMALIZED) op.parameters = loader.table(op.numbers, 1, 1, COLUMNS);
  loader.state(op, op.width + 1);
}

inline void scan_real(const Instruction& op, const float* x, const float* log_a, bool begun,
                      float* h) {
  const bool scaled = op.size == NORMALIZED && begun;
  for (int64_t c = 0; c < op.width; c += LANES) {
    const Register log = load(log_a + c);
    Register u = load(x + c);
    if (scaled)
      u *= root(largest(-exponential_minus_1(log + log), constant(op.parameters[0])));
    store(h + c, exponential(log) * load(h + c) + u);
  }
}

inline void scan_complex(const float* x, const float* a, int64_t half, float* h) {
  for (int64_t c = 0; c < half; ++c) {
    const float re = h[c], im = h[half + c];
    h[c] = a[c] * re - a[half + c] * im + x[c];
    h[half + c] = a[c] * im + a[half + c] * re + x[half + c];
  }
}

inline void scan_constant(const Instruction& op, const float* x, float* h) {
  const int64_t half = op.channels / 2;
  const float *a = op.table, *rest = op.table + op.width;
  const auto advance = [=](auto at, auto set, int64_t c) {
    const auto re = at(h + c), im = at(h + half + c);
    const auto low = at(rest + c) * re - at(rest + half + c) * im;
    const auto low_im = at(rest + c) * im + at(rest + half + c) * re;
    set(h + c, at(a + c) * re - at(a + half + c) * im + (low + at(x + c)));
    set(h + half + c, at(a + c) * im + at(a + half + c) * re + (low_im + at(x + half + c)));
  };
  int64_t c = 0;
  for (; c + LANES <= half; c += LANES)
    advance([](const float* p) { return load(p); }, [](float* p, Register v) { store(p, v); }, c);
  for (; c < half; ++c)
    advance([](const float* p) { return *p; }, [](float* p, float v) { *p = v; }, c);
}

inline void run_scan(const Instruction& op, const Memory& m) {
  float& begun = m.state[op.width];
  for (int64_t r = 0; r < op.rows; ++r) {
    const float* x = m.in + r * op.width;
    const float* a = op.second < 0 ? nullptr : m.second + r * op.width;
    if (m.valid[r] != 0) {
      if (!a)
        scan_constant(op, x, m.state);
      else if (op.size == COMPLEX)
        scan_complex(x, a, op.channels / 2, m.state);
      else
        scan_real(op, x, a, begun != 0, m.state);
      begun = 1;
    }
    std::memcpy(m.out + r * op.width, m.state, sizeof(float) * op.width);
  }
  mark_alike(op, m);
}

// A cell whose sums of the input are x [gates · channels]; weights [gates · channels, channels]: U.
inline void prepare_cell(Loader& loader, Instruction& op, int64_t gates, int64_t states) {
  expect(op.width_in > 1 && op.channels_in == product(gates, op.channels),
         "its input has other channels than its gates");
  expect(product(op.rows, op.stride) == op.rows_in, "its rows differ from its input's");
  const int64_t wide = padded(op.channels_in), deep = round_up(op.channels, Int8::group);
  const float* from = loader.numbers(op.weights, product(op.channels_in, op.channels));
  float* packed = loader.hold(product(wide, deep));
  pack_for(FLOAT32, from, op.channels, op.channels_in, packed, nullptr, nullptr);
  op.packed = packed;
  op.scale = op.offset = loader.hold(wide);
  loader.state(op, product(states, op.width));
  loader.work(op, product(2, wide));
}

// z = U h + b
inline void recur(const Instruction& op, const float* h, float* z) {
  static thread_local Operand work;
  const Matrix u{FLOAT32,  op.channels, op.channels_in, op.packed,
                 op.shift, op.scale,    op.offset};
  multiply(u, h, op.width, 1, work, [=](int64_t, int64_t c, Register sum) { store(z + c, sum); });
}

// The rows of h: row o is that after row o · stride of the input.
template <class F>
inline void run_cell(const Instruction& op, const Memory& m, F advance) {
  for (int64_t r = 0; r < op.rows_in; ++r) {
    if (m.valid[r] != 0) advance(m.in + r * op.width_in);
    if (r % op.stride == 0)
      std::memcpy(m.out + r / op.stride * op.width, m.state, sizeof(float) * op.width);
  }
  mark(op, m, m.valid, 0, op.stride);
}

// i, f, g, o = x + U h;  c = σ(f) c + σ(i) tanh(g);  h = σ(o) tanh(c). With `size` 1, U h and the c
// within tanh are normalised as rows are: filters: the scale of U h; bias [2, channels]: scale and
// shift of c; numbers: eps. state: h, c
inline void prepare_lstm(Loader& loader, Instruction& op) {
  expect(op.size <= 1, "there is no such cell");
  prepare_cell(loader, op, 4, 2);
  op.shift = loader.hold(padded(op.channels_in));
  if (!op.size) return;
  op.filter = loader.table(op.filters, 1, op.channels_in, padded(op.channels_in));
  op.table = loader.table(op.bias, 2, op.channels, op.width);
  op.parameters = loader.table(op.numbers, 1, 1, COLUMNS);
}

inline void run_lstm(const Instruction& op, const Memory& m) {
  const int64_t n = op.channels;
  float *h = m.state, *c = m.state + op.width, *z = m.work, *shown = m.work + padded(4 * n);
  const auto normalized = [&](float* x, int64_t count, const float* scale, const float* shift) {
    const float centre = mean(x, count);
    const float factor = 1 / std::sqrt(spread(x, count, centre) + op.parameters[0]);
    standardize(x, count, centre, factor, scale, shift, x);
  };
  run_cell(op, m, [&](const float* x) {
    recur(op, h, z);
    if (op.size) normalized(z, 4 * n, op.filter, op.shift);
    for (int64_t i = 0; i < 4 * n; ++i) z[i] += x[i];
    map(z, 2 * n, z, sigmoid);
    map(z + 2 * n, n, z + 2 * n, hyperbolic_tangent);
    map(z + 3 * n, n, z + 3 * n, sigmoid);
    for (int64_t i = 0; i < n; ++i) shown[i] = c[i] = z[n + i] * c[i] + z[i] * z[2 * n + i];
    if (op.size) normalized(shown, n, op.table, op.table + op.width);
    map(shown, n, shown, hyperbolic_tangent);
    for (int64_t i = 0; i < n; ++i) h[i] = z[3 * n + i] * shown[i];
  });
}

// r, z = σ(x + U h + b);  g = tanh(x + r (U h + b));  h = (1 − z) g + z h, in the order r, z, g.
// bias [3 · channels]: b; state: h
inline void prepare_gru(Loader& loader, Instruction& op) {
  prepare_cell(loader, op, 3, 1);
  op.shift = loader.table(op.bias, 1, op.channels_in, padded(op.channels_in));
}

inline void run_gru(const Instruction& op, const Memory& m) {
  const int64_t n = op.channels;
  float *h = m.state, *z = m.work;
  run_cell(op, m, [&](const float* x) {
    recur(op, h, z);
    for (int64_t i = 0; i < 2 * n; ++i) z[i] += x[i];
    map(z, 2 * n, z, sigmoid);
    for (int64_t i = 0; i < n; ++i) z[2 * n + i] = x[2 * n + i] + z[i] * z[2 * n + i];
    map(z + 2 * n, n, z + 2 * n, hyperbolic_tangent);
    for (int64_t i = 0; i < n; ++i) h[i] = (1 - z[n + i]) * z[2 * n + i] + z[n + i] * h[i];
  });
}

}  // namespace speechkit
