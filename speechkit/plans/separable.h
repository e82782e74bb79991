// SEPARABLE: y = f(W (w * x) + b + other), with the depthwise part, the other value and f optional;
// and DEPTHWISE: y = w * x.

#pragma once

#include "past.h"
#include "sparse.h"

namespace speechkit {

// the sums of N outputs that hide the latency of an addition
template <int N>
constexpr int SUMS = N >= 6 ? 1 : N >= 3 ? 2 : N == 2 ? 4 : 8;

// N outputs from `from` on, `spread` rows apart.
template <int N>
inline void outputs(const float* taps, const float* from, int64_t count, int64_t step,
                    int64_t spread, float* to, int64_t to_step) {
  Register sum[N][SUMS<N>] = {};
  const auto row = [=](int64_t k, int n) { return load(from + (k * step + n * spread) * LANES); };
  int64_t k = 0;
  if (N >= 4 && step == spread) {
    // an output reads the row that the next one read for the tap before, which is in a register
    Register rows[N];
    for (int n = 0; n < N - 1; ++n) rows[n] = row(0, n);
    for (; k + N <= count; k += N) {
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) {
        const Register tap = load(taps + (k + j) * LANES);
        rows[(j + N - 1) % N] = row(k + j, N - 1);
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) sum[n][j % SUMS<N>] += tap * rows[(j + n) % N];
      }
    }
  }
  for (; k + SUMS<N> <= count; k += SUMS<N>) {
#pragma GCC unroll 8
    for (int j = 0; j < SUMS<N>; ++j) {
      const Register tap = load(taps + (k + j) * LANES);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) sum[n][j] += tap * row(k + j, n);
    }
  }
  for (; k < count; ++k) {
    const Register tap = load(taps + k * LANES);
    for (int n = 0; n < N; ++n) sum[n][0] += tap * row(k, n);
  }
  for (int n = 0; n < N; ++n) {
    Register total = sum[n][0];
    for (int j = 1; j < SUMS<N>; ++j) total += sum[n][j];
    store(to + n * to_step, total);
  }
}

inline void correlate(const Instruction& op, const Past& past, float* out) {
  for (int64_t c = 0; c < op.width_in; c += LANES) {
    const float* from = past.rows + c / LANES * past.pitch;
    const float* w = op.filter + c * op.taps;
    int64_t o = 0;
    const auto some = [&](auto count) {
      constexpr int N = decltype(count)::value;
      for (; o + N <= op.rows; o += N)
        outputs<N>(w, from + o * op.stride * LANES, op.taps, op.dilation, op.stride,
                   out + o * op.width_in + c, op.width_in);
    };
    some(std::integral_constant<int, 8>{});
    some(std::integral_constant<int, 4>{});
    some(std::integral_constant<int, 2>{});
    some(std::integral_constant<int, 1>{});
  }
}

// filters [channels, taps] in groups of LANES channels
inline void prepare_taps(Loader& loader, Instruction& op) {
  expect(op.width_in > 1, "it takes channels, not sound");
  expect(op.taps >= 1, "it has no taps");
  loader.past(op);
  expect_past(op, product(op.rows - 1, op.stride) + product(op.taps - 1, op.dilation));
  expect_past(op, op.left + (op.rows - 1) * op.stride);
  const float* from = loader.numbers(op.filters, product(op.channels_in, op.taps));
  float* to = loader.hold(product(op.width_in, op.taps));
  for (int64_t c = 0; c < op.channels_in; ++c)
    for (int64_t k = 0; k < op.taps; ++k)
      to[(c / LANES * op.taps + k) * LANES + c % LANES] = from[c * op.taps + k];
  op.filter = to;
}

inline void prepare_depthwise(Loader& loader, Instruction& op) {
  prepare_taps(loader, op);
  expect(op.channels == op.channels_in, "its channels differ from its input's");
}

inline void run_depthwise(const Instruction& op, const Memory& m) {
  const Past past = slide(op, m, true);
  correlate(op, past, m.out);
  mark(op, m, past.flags, op.left, op.stride);
}

// The program of an elementwise function in `numbers`, with one or two inputs.
inline void prepare_code(Loader& loader, Instruction& op, bool second) {
  const int64_t size = code_size(loader.numbers(op.numbers, CODE_HEADER), op.width);
  expect(size > 0, "its elementwise program has sizes out of range");
  op.parameters = loader.table(op.numbers, 1, size, padded(size));
  Code code;
  const char* why = read_code(op.parameters, size, op.width, second, code);
  expect(!why, why);
}

inline void prepare_activation(Loader& loader, Instruction& op) {
  expect(op.activation <= PROGRAM, "there is no such activation");
  if (op.activation == PROGRAM) prepare_code(loader, op, false);
}

// weights [channels, channels of the input], whose rows are multiplied by bias[0]; b is bias[1]
inline void prepare_separable(Loader& loader, Instruction& op) {
  expect(op.width_in > 1, "it takes channels, not sound");
  expect(op.precision <= INT8, "there is no such precision");
  if (op.taps) {
    prepare_taps(loader, op);
    loader.work(op, product(op.rows, op.width_in));
  } else {
    expect(product(op.rows - 1, op.stride) < op.rows_in, "it reads rows that are not there");
  }
  const int64_t wide = padded(op.channels), deep = round_up(op.channels_in, Int8::group);
  const float* from = loader.numbers(op.weights, product(op.channels, op.channels_in));
  const float* factors = loader.numbers(op.bias, product(2, op.channels));
  Buffer<float> scaled(op.channels * op.channels_in);
  bool finite = true;
  for (int64_t c = 0; c < op.channels; ++c)
    for (int64_t i = c * op.channels_in; i < (c + 1) * op.channels_in; ++i)
      scaled[i] = float(double(from[i]) * double(factors[c])), finite &= std::isfinite(scaled[i]);
  expect(finite, "its weights are too large");
  if (op.precision != FLOAT32 || !pack_tiles(loader, op, scaled.data())) {
    float* packed = loader.hold(product(wide, deep));
    float *scale = loader.hold(wide), *offset = loader.hold(wide);
    pack_for(op.precision, scaled.data(), op.channels_in, op.channels, packed, scale, offset);
    op.packed = packed, op.scale = scale, op.offset = offset;
  }
  op.shift = loader.table(op.bias + op.channels, 1, op.channels, wide);
  prepare_activation(loader, op);
}

// The depthwise part; `multiply_together` computes the rest for several blocks at once.
inline void run_separable(const Instruction& op, const Memory& m) {
  if (!op.taps) return mark(op, m, m.valid, 0, op.stride);
  const Past past = slide(op, m, true);
  correlate(op, past, m.work);
  mark(op, m, past.flags, op.left, op.stride);
}

// `count` rows of Y = f(X W + b (+ other)); the rows of X are `x_step` apart, the others `step`.
inline void multiply_rows(const Instruction& op, const float* x, int64_t x_step, int64_t count,
                          const float* other, float* out, int64_t step) {
  static thread_local Operand work;
  const bool relu = op.activation == RELU;
  const auto put = [=](int64_t r, int64_t c, Register sum) {
    if (other) sum += load(other + r * step + c);
    if (relu) sum = sum < 0 ? Register{} : sum;
    store(out + r * step + c, sum);
  };
  if (!multiply_without_zeros(op, x, x_step, count, put)) {
    const Matrix w{op.precision, op.channels_in, op.channels, op.packed,
                   op.shift,     op.scale,       op.offset};
    multiply(w, x, x_step, count, work, put);
  }
  if (!relu) activate(op.activation, op.parameters, out, count, op.width, step);
}

// Each weight is loaded once for the rows of all blocks.
inline void multiply_together(const Instruction& op, float* scratch, int64_t size, int64_t blocks) {
  const float* x = scratch + (op.taps ? op.work : op.in);
  const float* other = op.second < 0 ? nullptr : scratch + op.second;
  const int64_t x_step = op.taps ? op.width_in : op.width_in * op.stride;
  float* out = scratch + op.out;
  if (blocks >= op.rows) {
    for (int64_t r = 0; r < op.rows; ++r)
      multiply_rows(op, x + r * x_step, size, blocks, other ? other + r * op.width : nullptr,
                    out + r * op.width, size);
  } else {
    for (int64_t b = 0; b < blocks; ++b, x += size, out += size) {
      multiply_rows(op, x, x_step, op.rows, other, out, op.width);
      if (other) other += size;
    }
  }
}

}  // namespace speechkit
