// ATTENTION: the queries of an output row weigh the keys of a window, and sum the values of these rows.
//
// The past rows lie in a strip for each channel, so that a register holds one channel of LANES keys.

#pragma once

#include "norms.h"
#include "past.h"

namespace speechkit {

// The floats of a strip: a register may be loaded from each of its rows.
inline int64_t strip_pitch(const Instruction& op) {
  return padded(op.keep + op.cycle * op.rows_in) + COLUMNS;
}

// x are keys, then values, [2 · channels]; other are queries. In each of `size` heads, over the n valid
// ones of `taps` rows: s_j = q · k_j / √d + b_j with d the channels of a head, a = max(s, 0) or, if the
// first number is 1, softmax(s); y = f n^−p Σ_j a_j v_j, and 0 for n = 0. numbers: 0 or 1, p, f of each
// head; bias: b [size, taps]; state: strips, flags
inline void prepare_attention(Loader& loader, Instruction& op) {
  expect(op.second >= 0 && op.width_in > 1, "it needs two inputs of channels");
  expect(op.channels_in == product(2, op.channels), "its input is not keys and values");
  expect(op.size >= 1 && op.channels % op.size == 0, "its channels do not divide by its heads");
  expect(op.taps >= 1, "it has no taps");
  loader.choose_cycle(op);
  expect_past(op, product(op.rows - 1, op.stride) + op.taps - 1);
  expect_past(op, op.left + (op.rows - 1) * op.stride);
  op.parameters = loader.table(op.numbers, 1, 2 + op.size, padded(2 + op.size));
  op.shift = loader.table(op.bias, op.size, op.taps, padded(op.taps));
  loader.state(op, product(op.channels_in + 1, strip_pitch(op)));
  loader.work(op, product(2, padded(op.taps)));
}

// As `slide`, with a strip for each channel.
inline Past slide_channels(const Instruction& op, const Memory& m) {
  const int64_t pitch = strip_pitch(op), last = op.cycle * op.rows_in;
  const int64_t start = m.steps % op.cycle * op.rows_in, now = start + op.keep;
  float* flags = m.state + op.channels_in * pitch;
  if (start == 0)
    for (int64_t c = 0; c <= op.channels_in; ++c)
      std::memmove(m.state + c * pitch, m.state + c * pitch + last, sizeof(float) * op.keep);
  std::memcpy(flags + now, m.valid, sizeof(float) * op.rows_in);
  for (int64_t r = 0; r < op.rows_in; ++r) {
    const float* x = m.in + r * op.width_in;
    for (int64_t c = 0; c < op.channels_in; ++c)
      m.state[c * pitch + now + r] = m.valid[r] != 0 ? x[c] : 0;
  }
  return {m.state + start, pitch, flags + start};
}

// s_j = Σ_c q_c k_cj for N registers of keys
template <int N>
inline void score(const float* q, const float* keys, int64_t pitch, int64_t channels, float* to) {
  Register sum[N] = {};
  for (int64_t c = 0; c < channels; ++c)
    for (int n = 0; n < N; ++n) sum[n] += q[c] * load(keys + c * pitch + n * LANES);
  for (int n = 0; n < N; ++n) store(to + n * LANES, sum[n]);
}

// y_c = factor · Σ_j a_j v_cj for N channels
template <int N>
inline void weigh(const float* a, const float* values, int64_t pitch, int64_t count, float factor,
                  float* y) {
  Register sum[N] = {};
  for (int64_t j = 0; j < count; j += LANES)
    for (int n = 0; n < N; ++n) sum[n] += load(a + j) * load(values + n * pitch + j);
  for (int n = 0; n < N; ++n) y[n] = factor * across(sum[n]);
}

// f(i, N) for groups of N = 4 and 1 from i on, up to `count`.
template <class F>
inline void in_groups(int64_t count, F f) {
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) f(i, std::integral_constant<int, 4>{});
  for (; i < count; ++i) f(i, std::integral_constant<int, 1>{});
}

// Makes softmax weights of scores, without their common factor, which is returned.
inline float soften(float* s, const float* flags, int64_t count) {
  Register most = constant(-std::numeric_limits<float>::max()), sum = {};
  for (int64_t j = 0; j < count; j += LANES) {
    const Register score = load(s + j);
    most = load(flags + j) != 0 && score > most ? score : most;
  }
  float top = most[0];
  for (int64_t i = 1; i < LANES; ++i) top = std::max(top, most[i]);
  for (int64_t j = 0; j < count; j += LANES) {
    const Register a = exponential(load(s + j) - top);
    store(s + j, load(flags + j) != 0 ? a : Register{});
    sum += load(s + j);
  }
  // at least 1, unless no row is valid
  return 1 / std::max(across(sum), 1.0f);
}

// y = factor · Σ_j a_j v_j in each of `heads` heads, where weights(h, a) makes the weights a of the
// scores q · k_j and returns the factor. The keys, then the values, lie in a strip for each channel.
template <class F>
inline void attend(int64_t channels, int64_t heads, const float* q, const float* strips,
                   int64_t pitch, int64_t count, float* a, float* y, F weights) {
  const int64_t each = channels / heads;
  for (int64_t h = 0; h < heads; ++h) {
    const float *keys = strips + h * each * pitch, *values = keys + channels * pitch;
    in_groups(count / LANES, [&](int64_t n, auto size) {
      score<decltype(size)::value>(q + h * each, keys + n * LANES, pitch, each, a + n * LANES);
    });
    const float factor = weights(h, a);
    in_groups(each, [&](int64_t n, auto size) {
      weigh<decltype(size)::value>(a, values + n * pitch, pitch, count, factor, y + h * each + n);
    });
  }
}

inline void run_attention(const Instruction& op, const Memory& m) {
  const Past past = slide_channels(op, m);
  const int64_t each = op.channels / op.size, count = round_up(op.taps, LANES);
  const float *numbers = op.parameters, scale = 1 / std::sqrt(float(each));
  float *flags = m.work, *a = m.work + padded(op.taps);
  for (int64_t r = 0; r < op.rows; ++r) {
    const float* rows = past.rows + r * op.stride;
    std::memcpy(flags, past.flags + r * op.stride, sizeof(float) * op.taps);
    std::memset(flags + op.taps, 0, sizeof(float) * (count - op.taps));
    const float valid = total(flags, count, [](auto v) { return v; });
    const float share = std::pow(std::max(valid, 1.0f), -numbers[1]);
    float* y = m.out + r * op.width;
    const auto weights = [&](int64_t h, float* s) {
      const float* bias = op.shift + h * padded(op.taps);
      for (int64_t j = 0; j < count; j += LANES) store(s + j, load(s + j) * scale + load(bias + j));
      const float factor = share * numbers[2 + h];
      if (numbers[0] != 0) return factor * soften(s, flags, count);
      for (int64_t j = 0; j < count; j += LANES) {
        const Register x = load(s + j);
        store(s + j, load(flags + j) != 0 && x > 0 ? x : Register{});
      }
      return factor;
    };
    attend(op.channels, op.size, m.second + r * op.width, rows, past.pitch, count, a, y, weights);
    std::memset(y + op.channels, 0, sizeof(float) * (op.width - op.channels));
  }
  mark(op, m, past.flags, op.left, op.stride);
}

}  // namespace speechkit
