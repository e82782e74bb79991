// Instructions of front ends: from sound to features.

#pragma once

#include <utility>

#include "past.h"

namespace speechkit {

struct Complex {
  float *re, *im;
};

template <class V>
inline V take(const float* from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

template <class V>
void put(float* to, V v) {
  std::memcpy(to, &v, sizeof v);
}

// One pass of a radix-4 Stockham transform: n points, the results of earlier passes `span` apart, of
// which V are computed at once. The twiddles of each quarter are contiguous.
template <class V>
void pass_of_four(Complex x, Complex y, int64_t n, int64_t span, const float* twiddles) {
  const int64_t quarter = n / 4, step = span * quarter, width = sizeof(V) / sizeof(float);
  for (int64_t p = 0; p < quarter; ++p) {
    const float* t = twiddles + 6 * p;
    for (int64_t q = 0; q < span; q += width) {
      const float *r = x.re + span * p + q, *i = x.im + span * p + q;
      const V ar = take<V>(r), ai = take<V>(i), cr = take<V>(r + 2 * step),
              ci = take<V>(i + 2 * step);
      const V br = take<V>(r + step), bi = take<V>(i + step);
      const V dr = take<V>(r + 3 * step), di = take<V>(i + 3 * step);
      const V even_r = ar + cr, even_i = ai + ci, odd_r = br + dr, odd_i = bi + di;
      const V less_r = ar - cr, less_i = ai - ci, turn_r = bi - di, turn_i = dr - br;
      const V r1 = less_r + turn_r, i1 = less_i + turn_i, r2 = even_r - odd_r, i2 = even_i - odd_i;
      const V r3 = less_r - turn_r, i3 = less_i - turn_i;
      float *to_r = y.re + 4 * span * p + q, *to_i = y.im + 4 * span * p + q;
      put(to_r, even_r + odd_r), put(to_i, even_i + odd_i);
      put(to_r + span, r1 * t[0] - i1 * t[1]), put(to_i + span, r1 * t[1] + i1 * t[0]);
      put(to_r + 2 * span, r2 * t[2] - i2 * t[3]), put(to_i + 2 * span, r2 * t[3] + i2 * t[2]);
      put(to_r + 3 * span, r3 * t[4] - i3 * t[5]), put(to_i + 3 * span, r3 * t[5] + i3 * t[4]);
    }
  }
}

// Alternates the numbers of two registers: the first halves if `high` is false, else the second.
template <bool high, size_t... I>
inline Register alternate(Register a, Register b, std::index_sequence<I...>) {
  constexpr int64_t from = high ? LANES / 2 : 0;
  return __builtin_shufflevector(a, b, (int(I) % 2 * LANES + int(I) / 2 + from)...);
}

// The first pass, whose span is 1: LANES points p at once, with results 4 p … 4 p + 3 side by side.
// Each of the six numbers of the twiddles is contiguous.
inline void first_pass(Complex x, Complex y, int64_t n, const float* twiddles) {
  const int64_t quarter = n / 4;
  const auto sides = [](Register a, Register b, Register c, Register d, float* to) {
    constexpr auto all = std::make_index_sequence<LANES>();
    const Register ac = alternate<false>(a, c, all), more_ac = alternate<true>(a, c, all);
    const Register bd = alternate<false>(b, d, all), more_bd = alternate<true>(b, d, all);
    store(to, alternate<false>(ac, bd, all)), store(to + LANES, alternate<true>(ac, bd, all));
    store(to + 2 * LANES, alternate<false>(more_ac, more_bd, all));
    store(to + 3 * LANES, alternate<true>(more_ac, more_bd, all));
  };
  for (int64_t p = 0; p < quarter; p += LANES) {
    const auto at = [=](const float* from, int64_t k) { return load(from + p + k * quarter); };
    const auto turn = [=](int64_t k) { return load(twiddles + p + k * quarter); };
    const Register even_r = at(x.re, 0) + at(x.re, 2), even_i = at(x.im, 0) + at(x.im, 2);
    const Register odd_r = at(x.re, 1) + at(x.re, 3), odd_i = at(x.im, 1) + at(x.im, 3);
    const Register less_r = at(x.re, 0) - at(x.re, 2), less_i = at(x.im, 0) - at(x.im, 2);
    const Register turn_r = at(x.im, 1) - at(x.im, 3), turn_i = at(x.re, 3) - at(x.re, 1);
    const Register r1 = less_r + turn_r, i1 = less_i + turn_i;
    const Register r2 = even_r - odd_r, i2 = even_i - odd_i;
    const Register r3 = less_r - turn_r, i3 = less_i - turn_i;
    sides(even_r + odd_r, r1 * turn(0) - i1 * turn(1), r2 * turn(2) - i2 * turn(3),
          r3 * turn(4) - i3 * turn(5), y.re + 4 * p);
    sides(even_i + odd_i, r1 * turn(1) + i1 * turn(0), r2 * turn(3) + i2 * turn(2),
          r3 * turn(5) + i3 * turn(4), y.im + 4 * p);
  }
}

// |DFT|² of 2 · half real samples from a complex transform of half the size, in which the even
// samples are the real part. `turns` are cos and −sin of π k / half for k < half.
inline void unfold(int64_t half, const float* __restrict__ re, const float* __restrict__ im,
            const float* __restrict__ turns, float* __restrict__ out) {
  const float top = re[0] + im[0], low = re[0] - im[0];
  out[0] = top * top, out[half] = low * low;
  for (int64_t k = 1; k < half; ++k) {
    const float rb = re[half - k], ib = im[half - k], c = turns[k], s = turns[half + k];
    const float even_re = re[k] + rb, even_im = im[k] - ib, odd_re = im[k] + ib,
                odd_im = rb - re[k];
    const float real = even_re + c * odd_re - s * odd_im,
                imaginary = even_im + c * odd_im + s * odd_re;
    out[k] = (real * real + imaginary * imaginary) / 4;
  }
}

// |DFT|² of `size` real samples: the even ones are in the first half of `work` [2 · size], the odd
// ones after them. tables: the turns of `unfold`, then the twiddles of each pass; `first` are those of
// the first pass in the order of `first_pass`.
inline void power(int64_t size, const float* tables, const float* first, float* work, float* out) {
  typedef float Four __attribute__((vector_size(16)));
  const int64_t half = size / 2;
  Complex x{work, work + half}, y{work + size, work + size + half};
  const float* twiddles = tables + size;
  int64_t span = 1, n = half;
  for (; n >= 4; span *= 4, n /= 4) {
    if (span >= LANES) {
      pass_of_four<Register>(x, y, n, span, twiddles);
    } else if (span >= 4) {
      pass_of_four<Four>(x, y, n, span, twiddles);
    } else if (n / 4 >= LANES) {
      first_pass(x, y, n, first);
    } else {
      pass_of_four<float>(x, y, n, span, twiddles);
    }
    twiddles += 6 * (n / 4);
    std::swap(x, y);
  }
  if (n == 2) {
    for (int64_t q = 0; q < span; ++q) {
      y.re[q] = x.re[q] + x.re[q + span], y.im[q] = x.im[q] + x.im[q + span];
      y.re[q + span] = x.re[q] - x.re[q + span], y.im[q + span] = x.im[q] - x.im[q + span];
    }
    std::swap(x, y);
  }
  unfold(half, x.re, x.im, tables, out);
}

inline void expect_sound(const Instruction& op) {
  expect(op.width_in == 1, "it takes sound, not channels");
}

// The floats of the tables of a transform of `size` samples: the turns, then each pass's twiddles.
inline int64_t table_floats(int64_t size) {
  int64_t count = size;
  for (int64_t n = size / 2; n >= 4; n /= 4) count += 6 * (n / 4);
  return count;
}

// weights: the Hann window of `taps` samples, which begins at sample `rate` of the transform's `size`;
// filters: the tables
inline void prepare_spectrum(Loader& loader, Instruction& op) {
  expect_sound(op);
  const bool power_of_two = !(op.size & (op.size - 1));
  expect(power_of_two && op.size >= 8 && op.size <= 65536, "its size is no power of two");
  expect(op.channels == op.size / 2 + 1, "its channels are not those of its size");
  expect(op.taps >= 1 && op.rate <= op.size && op.taps <= op.size - op.rate,
         "its window is longer than its size");
  loader.past(op);
  expect_past(op, product(op.rows - 1, op.stride) + op.taps - 1);
  expect_past(op, op.left + product(op.rows, op.stride) - 1);
  op.table = loader.table(op.weights, 1, op.taps, padded(op.taps));
  op.filter = loader.table(op.filters, 1, table_floats(op.size), padded(table_floats(op.size)));
  const int64_t quarter = op.size / 8;
  float* first = loader.hold(6 * std::max<int64_t>(1, quarter));
  for (int64_t p = 0; p < quarter; ++p)
    for (int64_t k = 0; k < 6; ++k) first[k * quarter + p] = op.filter[op.size + 6 * p + k];
  op.parameters = first;
  loader.work(op, product(3, op.size));
}

inline void run_spectrum(const Instruction& op, const Memory& m) {
  const Past past = slide(op, m, true);
  const int64_t size = op.size, half = size / 2;
  float* windowed = m.work + 2 * size;
  std::memset(windowed, 0, sizeof(float) * size);
  for (int64_t o = 0; o < op.rows; ++o) {
    const float* from = past.rows + o * op.stride;
    for (int64_t n = 0; n < op.taps; ++n) windowed[op.rate + n] = op.table[n] * from[n];
    for (int64_t i = 0; i < half; ++i) {
      m.work[i] = windowed[2 * i];
      m.work[half + i] = windowed[2 * i + 1];
    }
    power(size, op.filter, op.parameters, m.work, m.out + o * op.width);
  }
  mark(op, m, past.flags, op.left + op.stride - 1, op.stride);
}

// weights [channels, channels of the input], of which each group of LANES channels reads a band: the
// rows between the first and the last that are not all zero. `filter` holds the rows of each band,
// `bands` the first row and their number.
inline void prepare_bands(Loader& loader, Instruction& op) {
  expect(op.width_in > 1, "it takes channels, not sound");
  expect(op.rows == op.rows_in, "its rows differ from its input's");
  const float* w = loader.numbers(op.weights, product(op.channels, op.channels_in));
  const int64_t groups = op.width / LANES;
  float* bands = loader.hold(2 * groups);
  float* to = loader.hold(product(op.width, op.channels_in));
  op.filter = to, op.parameters = bands;
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t first_channel = g * LANES, end = std::min(op.channels, first_channel + LANES);
    int64_t first = op.channels_in, last = -1;
    for (int64_t c = first_channel; c < end; ++c)
      for (int64_t i = 0; i < op.channels_in; ++i)
        if (w[c * op.channels_in + i] != 0) first = std::min(first, i), last = std::max(last, i);
    bands[2 * g] = float(last < 0 ? 0 : first), bands[2 * g + 1] = float(last < 0 ? 0 : last - first + 1);
    for (int64_t i = first; i <= last; ++i, to += LANES)
      for (int64_t c = first_channel; c < end; ++c)
        to[c - first_channel] = w[c * op.channels_in + i];
  }
}

inline void run_bands(const Instruction& op, const Memory& m) {
  for (int64_t r = 0; r < op.rows; ++r) {
    const float* w = op.filter;
    for (int64_t g = 0; g < op.width / LANES; ++g) {
      const float* x = m.in + r * op.width_in + int64_t(op.parameters[2 * g]);
      const int64_t count = int64_t(op.parameters[2 * g + 1]);
      // four sums hide the latency of an addition
      Register sum[4] = {};
      int64_t i = 0;
      for (; i + 4 <= count; i += 4)
        for (int j = 0; j < 4; ++j) sum[j] += x[i + j] * load(w + (i + j) * LANES);
      for (; i < count; ++i) sum[0] += x[i] * load(w + i * LANES);
      store(m.out + r * op.width + g * LANES, (sum[0] + sum[1]) + (sum[2] + sum[3]));
      w += count * LANES;
    }
  }
  mark_alike(op, m);
}

// numbers: the coefficient
inline void prepare_preemphasis(Loader& loader, Instruction& op) {
  expect_sound(op);
  loader.past(op);
  expect(op.channels == 1, "it makes sound, not channels");
  expect_past(op, op.rows);
  expect_past(op, op.left + op.rows - 1);
  op.parameters = loader.table(op.numbers, 1, 1, COLUMNS);
}

inline void run_preemphasis(const Instruction& op, const Memory& m) {
  const Past past = slide(op, m, true);
  for (int64_t r = 0; r < op.rows; ++r)
    m.out[r] = past.rows[r + 1] - op.parameters[0] * past.rows[r];
  mark(op, m, past.flags, op.left, 1);
}

// filters [rate, taps], one for each output of `stride` inputs
inline void prepare_resample(Loader& loader, Instruction& op) {
  expect_sound(op);
  expect(op.channels == 1, "it makes sound, not channels");
  expect(op.taps >= 1, "it has no taps");
  loader.past(op);
  expect_past(op, product((op.rows - 1) / op.rate, op.stride) + op.taps - 1);
  expect_past(op, op.left + product(op.rows - 1, op.stride) / op.rate);
  op.filter = loader.table(op.filters, op.rate, op.taps, op.taps);
}

inline void run_resample(const Instruction& op, const Memory& m) {
  const Past past = slide(op, m, true);
  for (int64_t o = 0; o < op.rows; ++o) {
    const float* filter = op.filter + o % op.rate * op.taps;
    const float* from = past.rows + o / op.rate * op.stride;
    float sum = 0;
    for (int64_t n = 0; n < op.taps; ++n) sum += filter[n] * from[n];
    m.out[o] = sum;
    m.out_valid[o] = past.flags[op.left + o * op.stride / op.rate];
  }
}

// numbers: the guard
inline void prepare_log(Loader& loader, Instruction& op) {
  op.parameters = loader.table(op.numbers, 1, 1, COLUMNS);
}

inline void run_log(const Instruction& op, const Memory& m) {
  const float guard = op.parameters[0];
  map(m.in, op.rows * op.width, m.out, [=](Register x) { return logarithm(x + guard); });
  mark_alike(op, m);
}

// numbers: decay, gain, bias, power, epsilon; state: the decayed energies, then their count
inline void prepare_pcen(Loader& loader, Instruction& op) {
  expect(op.width_in > 1, "it takes channels, not sound");
  op.parameters = loader.table(op.numbers, 1, 5, COLUMNS);
  loader.state(op, op.width + 1);
}

inline void run_pcen(const Instruction& op, const Memory& m) {
  const float *p = op.parameters, decay = p[0], gain = p[1], bias = p[2], power = p[3];
  const float epsilon = p[4], floor = std::pow(bias, power);
  float& count = m.state[op.width];
  for (int64_t r = 0; r < op.rows; ++r) {
    const bool real = m.valid[r] != 0;
    if (real) count = decay * count + 1;
    const float share = 1 / std::max(count, 1e-9f);
    for (int64_t c = 0; c < op.width; c += LANES) {
      const Register x = load(m.in + r * op.width + c);
      Register mean = load(m.state + c);
      if (real) store(m.state + c, mean = mean * decay + exponential(x));
      const Register level = exponential(x - gain * logarithm(mean * share + epsilon));
      store(m.out + r * op.width + c, exponential(power * logarithm(level + bias)) - floor);
    }
  }
  mark_alike(op, m);
}

}  // namespace speechkit
