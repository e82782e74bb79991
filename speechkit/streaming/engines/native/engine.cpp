// A step of a whole net for sessions: a list of instructions over rows of channels, run for each
// block of a session in order.
//
// A buffer in the scratch holds rows of ld(channels) floats; the padding after the channels is never
// read as a channel. Next to it is one float for each row: whether it is valid. A layer that needs
// past rows keeps its last rows, masked, and their validity in the session's state. They are in
// groups of LANES channels, so that the taps of a channel are contiguous, in a strip for `cycle`
// steps. At the end of the strip, the rows that are still needed move to the front.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "activation.h"
#include "depthwise.h"
#include "matmul.h"

using namespace speechkit;

namespace {

// a multiple of every instruction's cycle
constexpr int64_t CYCLE = 16;
// blocks, of one or several sessions, that an instruction computes together
constexpr int64_t GROUP = 12;

enum Code : int64_t {
  SEPARABLE,
  DEPTHWISE,
  AFFINE,
  ACTIVATE,
  LOG,
  DELAY,
  ADD,
  PREEMPHASIS,
  SPECTRUM,
  RESAMPLE,
  LOG_SOFTMAX,
  SLIDING_AVERAGE,
  RUNNING_AVERAGE,
  PCEN,
};

// Offsets count floats: `in`, `out`, `other` (−1 for none), `work` and the valid flags in the
// scratch, `state` in the session's state, the rest in the weights.
struct Instruction {
  int64_t code, in, in_valid, out, out_valid, rows_in, rows_out, channels_in, channels_out;
  int64_t keep, cycle, state, weights, taps, stride, dilation, left, rate, other, work;
  int64_t activation, numbers, precision, packed, bias, scale, offset;
};

// Audio is a single channel, without padding.
inline int64_t ld(int64_t channels) { return channels == 1 ? 1 : padded(channels); }

// The past and the new rows of a layer: group g of channels starts at `rows + g · pitch`.
struct Past {
  const float* rows;
  int64_t pitch;
  const float* flags;
};

// Adds rows to the strip in the state; if `masked`, invalid rows are zero. Returns a view of the
// past and the new rows. `steps` is the number of steps of the session so far.
Past slide(const Instruction& op, const float* in, const float* valid, float* state, int64_t steps,
           bool masked) {
  const int64_t width = ld(op.channels_in), lanes = std::min(LANES, width);
  const int64_t capacity = op.keep + op.cycle * op.rows_in, pitch = capacity * lanes;
  const int64_t start = steps % op.cycle * op.rows_in, last = op.cycle * op.rows_in;
  float* flags = state + capacity * width;
  if (start == 0) std::memmove(flags, flags + last, sizeof(float) * op.keep);
  std::memcpy(flags + start + op.keep, valid, sizeof(float) * op.rows_in);
  for (int64_t c = 0; c < width; c += lanes) {
    float* strip = state + c * capacity;
    if (start == 0) std::memmove(strip, strip + last * lanes, sizeof(float) * op.keep * lanes);
    float* to = strip + (start + op.keep) * lanes;
    if (lanes == 1) {
      for (int64_t r = 0; r < op.rows_in; ++r) to[r] = !masked || valid[r] != 0 ? in[r] : 0;
      continue;
    }
    for (int64_t r = 0; r < op.rows_in; ++r)
      store(to + r * LANES, !masked || valid[r] != 0 ? load(in + r * width + c) : Register{});
  }
  return {state + start * lanes, pitch, flags + start};
}

// N outputs from `from` on, `spread` rows apart; N sums are enough to hide the latency of an
// addition.
template <int N>
inline void outputs(const float* taps, const float* from, int64_t count, int64_t step,
                    int64_t spread, float* to, int64_t to_step) {
  constexpr int SUMS = N >= 6 ? 1 : N >= 3 ? 2 : N == 2 ? 4 : 8;
  Register sum[N][SUMS] = {};
  int64_t k = 0;
  for (; k + SUMS <= count; k += SUMS) {
#pragma GCC unroll 8
    for (int j = 0; j < SUMS; ++j) {
      const Register tap = load(taps + (k + j) * LANES);
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n)
        sum[n][j] += tap * load(from + ((k + j) * step + n * spread) * LANES);
    }
  }
  for (; k < count; ++k) {
    const Register tap = load(taps + k * LANES);
    for (int n = 0; n < N; ++n) sum[n][0] += tap * load(from + (k * step + n * spread) * LANES);
  }
  for (int n = 0; n < N; ++n) {
    Register total = sum[n][0];
    for (int j = 1; j < SUMS; ++j) total += sum[n][j];
    store(to + n * to_step, total);
  }
}

void depthwise(const Instruction& op, const Past& past, const float* taps, float* out) {
  const int64_t width = ld(op.channels_in);
  for (int64_t c = 0; c < width; c += LANES) {
    const float* from = past.rows + c / LANES * past.pitch;
    const float* w = taps + c * op.taps;
    int64_t o = 0;
    for (; o + 8 <= op.rows_out; o += 8)
      outputs<8>(w, from + o * op.stride * LANES, op.taps, op.dilation, op.stride,
                 out + o * width + c, width);
    for (; o + 4 <= op.rows_out; o += 4)
      outputs<4>(w, from + o * op.stride * LANES, op.taps, op.dilation, op.stride,
                 out + o * width + c, width);
    for (; o + 2 <= op.rows_out; o += 2)
      outputs<2>(w, from + o * op.stride * LANES, op.taps, op.dilation, op.stride,
                 out + o * width + c, width);
    for (; o < op.rows_out; ++o)
      outputs<1>(w, from + o * op.stride * LANES, op.taps, op.dilation, op.stride,
                 out + o * width + c, width);
  }
}

// `count` rows of Y = f(X W + b (+ other)); the rows of X are `x_step` apart, the others
// `out_step`.
void matrix(const Instruction& op, const float* x, int64_t x_step, int64_t count,
            const float* all_weights, const float* other, float* out, int64_t out_step) {
  static thread_local Operand work;
  const Matrix w{op.precision,           op.channels_in,
                 op.channels_out,        all_weights + op.packed,
                 all_weights + op.bias,  all_weights + op.scale,
                 all_weights + op.offset};
  const bool relu = op.activation == RELU;
  multiply(w, x, x_step, count, work, [=](int64_t r, int64_t c, Register sum) {
    if (other) sum += load(other + r * out_step + c);
    if (relu) sum = sum < 0 ? Register{} : sum;
    store(out + r * out_step + c, sum);
  });
  if (relu || op.activation == NONE) return;
  for (int64_t r = 0; r < count; ++r)
    activate(op.activation, all_weights + op.numbers, out + r * out_step, ld(op.channels_out));
}

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
inline void put(float* to, V v) {
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

// |DFT|² of 2 · half real samples from a complex transform of half the size, in which the even
// samples are the real part. `turns` are cos and −sin of π k / half for k < half.
void unfold(int64_t half, const float* __restrict__ re, const float* __restrict__ im,
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
// ones after them. tables: the turns of `unfold`, then the twiddles of each pass.
void power(int64_t size, const float* tables, float* work, float* out) {
  typedef float Four __attribute__((vector_size(16)));
  const int64_t half = size / 2;
  Complex x{work, work + half}, y{work + size, work + size + half};
  const float* twiddles = tables + padded(size);
  int64_t span = 1, n = half;
  for (; n >= 4; span *= 4, n /= 4) {
    if (span >= LANES) {
      pass_of_four<Register>(x, y, n, span, twiddles);
    } else if (span >= 4) {
      pass_of_four<Four>(x, y, n, span, twiddles);
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

// weights: the Hann window, then the transform's tables; `taps` samples in `dilation` of it.
void spectrum(const Instruction& op, const float* sound, const float* weights, float* work,
              float* out) {
  const int64_t size = op.dilation, before = op.rate, half = size / 2;
  const float* hann = weights;
  const float* tables = weights + padded(op.taps);
  float* windowed = work + 2 * size;
  std::memset(windowed, 0, sizeof(float) * size);
  for (int64_t o = 0; o < op.rows_out; ++o) {
    const float* from = sound + o * op.stride;
    for (int64_t n = 0; n < op.taps; ++n) windowed[before + n] = hann[n] * from[n];
    for (int64_t i = 0; i < half; ++i) {
      work[i] = windowed[2 * i];
      work[half + i] = windowed[2 * i + 1];
    }
    power(size, tables, work, out + o * ld(op.channels_out));
  }
}

void resample(const Instruction& op, const float* sound, const float* weights, float* out) {
  for (int64_t o = 0; o < op.rows_out; ++o) {
    const float* filter = weights + o % op.rate * op.taps;
    const float* from = sound + o / op.rate * op.stride;
    float sum = 0;
    for (int64_t n = 0; n < op.taps; ++n) sum += filter[n] * from[n];
    out[o] = sum;
  }
}

void log_softmax(const Instruction& op, const float* in, float* out) {
  const int64_t width = ld(op.channels_in);
  for (int64_t r = 0; r < op.rows_in; ++r) {
    const float *x = in + r * width, top = *std::max_element(x, x + op.channels_in);
    double sum = 0;
    for (int64_t c = 0; c < op.channels_in; ++c) sum += std::exp(x[c] - top);
    const float shift = top + float(std::log(sum));
    for (int64_t c = 0; c < op.channels_in; ++c) out[r * width + c] = x[c] - shift;
  }
}

void sliding_average(const Instruction& op, const Past& past, float* out) {
  const int64_t width = ld(op.channels_in);
  for (int64_t r = 0; r < op.rows_in; ++r) {
    float count = 0;
    for (int64_t k = 0; k < op.taps; ++k) count += past.flags[r + k];
    const float scale = 1 / std::max(count, 1.0f);
    for (int64_t c = 0; c < width; c += LANES) {
      const float* from = past.rows + c / LANES * past.pitch + r * LANES;
      Register sum = {};
      for (int64_t k = 0; k < op.taps; ++k) sum += load(from + k * LANES);
      store(out + r * width + c, sum * scale);
    }
  }
}

void running_average(const Instruction& op, const float* in, const float* valid, float* state,
                     float* out) {
  const int64_t width = ld(op.channels_in);
  for (int64_t r = 0; r < op.rows_in; ++r) {
    if (valid[r] != 0) {
      for (int64_t c = 0; c < width; ++c) state[c] += in[r * width + c];
      state[width] += 1;
    }
    const float count = std::max(state[width], 1.0f);
    for (int64_t c = 0; c < width; ++c) out[r * width + c] = state[c] / count;
  }
}

// weights: decay, gain, bias, power, epsilon; state: the decayed energies, then their count.
void pcen(const Instruction& op, const float* in, const float* valid, const float* weights,
          float* state, float* out) {
  const int64_t width = ld(op.channels_in);
  const float decay = weights[0], gain = weights[1], bias = weights[2], power = weights[3];
  const float epsilon = weights[4], floor = std::pow(bias, power);
  float& count = state[width];
  for (int64_t r = 0; r < op.rows_in; ++r) {
    const bool real = valid[r] != 0;
    if (real) count = decay * count + 1;
    const float share = 1 / std::max(count, 1e-9f);
    for (int64_t c = 0; c < width; c += LANES) {
      const Register x = load(in + r * width + c);
      Register mean = load(state + c);
      if (real) store(state + c, mean = mean * decay + exponential(x));
      const Register level = exponential(x - gain * logarithm(mean * share + epsilon));
      store(out + r * width + c, exponential(power * logarithm(level + bias)) - floor);
    }
  }
}

void step(const Instruction& op, const float* all_weights, float* all_state, float* scratch,
          int64_t steps) {
  const float* in = scratch + op.in;
  const float* valid = scratch + op.in_valid;
  const float* weights = all_weights + op.weights;
  const float* numbers = all_weights + op.numbers;
  const float* other = op.other < 0 ? nullptr : scratch + op.other;
  float *out = scratch + op.out, *out_valid = scratch + op.out_valid, *work = scratch + op.work;
  float* state = all_state + op.state;
  const int64_t width = ld(op.channels_in), count = op.rows_in * width;
  Past past{in, 0, valid};
  int64_t first = 0, every = op.stride;
  switch (op.code) {
    case SEPARABLE:
      // `matrices` computes the rest for several blocks at once
      if (op.taps) {
        past = slide(op, in, valid, state, steps, true);
        depthwise(op, past, weights, work);
        first = op.left;
      }
      break;
    case DEPTHWISE:
      past = slide(op, in, valid, state, steps, true);
      depthwise(op, past, weights, out);
      first = op.left;
      break;
    case AFFINE:
      for (int64_t r = 0; r < op.rows_in; ++r)
        for (int64_t c = 0; c < width; ++c)
          out[r * width + c] = in[r * width + c] * weights[c] + weights[width + c];
      break;
    case ACTIVATE:
      if (out != in) std::memcpy(out, in, sizeof(float) * count);
      activate(op.activation, numbers, out, count);
      break;
    case LOG: map(in, count, out, [=](Register x) { return logarithm(x + weights[0]); }); break;
    case DELAY:
      // unchanged, valid or not
      past = slide(op, in, valid, state, steps, false);
      if (width == 1) {
        std::memcpy(out, past.rows, sizeof(float) * op.rows_in);
      } else {
        for (int64_t c = 0; c < width; c += LANES)
          for (int64_t r = 0; r < op.rows_in; ++r)
            store(out + r * width + c, load(past.rows + c / LANES * past.pitch + r * LANES));
      }
      break;
    case ADD:
      for (int64_t i = 0; i < count; ++i) out[i] = in[i] + other[i];
      activate(op.activation, numbers, out, count);
      break;
    case PREEMPHASIS:
      past = slide(op, in, valid, state, steps, true);
      for (int64_t r = 0; r < op.rows_out; ++r)
        out[r] = past.rows[r + 1] - weights[0] * past.rows[r];
      first = op.left;
      break;
    case SPECTRUM:
      past = slide(op, in, valid, state, steps, true);
      spectrum(op, past.rows, weights, work, out);
      first = op.left + op.stride - 1;
      break;
    case RESAMPLE:
      past = slide(op, in, valid, state, steps, true);
      resample(op, past.rows, weights, out);
      for (int64_t o = 0; o < op.rows_out; ++o)
        out_valid[o] = past.flags[op.left + o * op.stride / op.rate];
      return;
    case LOG_SOFTMAX: log_softmax(op, in, out); break;
    case SLIDING_AVERAGE:
      past = slide(op, in, valid, state, steps, true);
      sliding_average(op, past, out);
      first = op.left;
      break;
    case RUNNING_AVERAGE: running_average(op, in, valid, state, out); break;
    case PCEN: pcen(op, in, valid, weights, state, out); break;
  }
  for (int64_t r = 0; r < op.rows_out; ++r) out_valid[r] = past.flags[first + r * every];
}

// The matrix of a SEPARABLE instruction for `blocks`, whose scratches are `scratch_size` apart:
// each weight is loaded once for the rows of all blocks.
void matrices(const Instruction& op, const float* weights, float* scratch, int64_t scratch_size,
              int64_t blocks) {
  const int64_t in_width = ld(op.channels_in), out_width = ld(op.channels_out);
  const float* x = scratch + (op.taps ? op.work : op.in);
  const float* other = op.other < 0 ? nullptr : scratch + op.other;
  const int64_t x_step = op.taps ? in_width : in_width * op.stride;
  float* out = scratch + op.out;
  if (blocks >= op.rows_out) {
    for (int64_t r = 0; r < op.rows_out; ++r)
      matrix(op, x + r * x_step, scratch_size, blocks, weights,
             other ? other + r * out_width : nullptr, out + r * out_width, scratch_size);
  } else {
    for (int64_t b = 0; b < blocks; ++b, x += scratch_size, out += scratch_size) {
      matrix(op, x, x_step, op.rows_out, weights, other, out, out_width);
      if (other) other += scratch_size;
    }
  }
}

}  // namespace

// The arguments of `stream_step`: `blocks` blocks of `rows` rows of `channels` for each of
// `sessions`. y [sessions, blocks, rows_out, channels_out] and valid [sessions, blocks, rows_out]
// are the output of the last instruction. The first float of state [sessions, state_size] counts a
// session's steps. The first instruction reads its input from the scratch; there is one scratch for
// each of GROUP blocks.
struct Steps {
  const Instruction* program;
  int64_t length;
  const float* weights;
  float* state;
  int64_t state_size, rows, channels, sessions, blocks;
  float* y;
  bool* valid;
  float* scratch;
  int64_t scratch_size;
};

// x [sessions, blocks · rows, channels], `x_step` from one session to the next; the first `real`
// rows are valid.
extern "C" void stream_step(const Steps* all, const float* x, int64_t x_step, int64_t real) {
  const auto [program, length, weights, state, state_size, rows, channels, sessions, blocks, y,
              valid, scratch, scratch_size] = *all;
  const Instruction &first = program[0], &last = program[length - 1];
  const int64_t width = ld(channels), out = ld(last.channels_out), total = sessions * blocks;
  float* states[GROUP];
  int64_t steps[GROUP];
  // a session's blocks in order, since each reads the state that the previous one wrote
  for (int64_t group = 0; group < total; group += GROUP) {
    const int64_t count = std::min(GROUP, total - group);
    for (int64_t g = 0; g < count; ++g) {
      const int64_t session = (group + g) / blocks, row = (group + g) % blocks * rows;
      const float* from = x + session * x_step + row * channels;
      float* own = scratch + g * scratch_size;
      if (width == channels) {
        std::memcpy(own + first.in, from, sizeof(float) * rows * channels);
      } else {
        for (int64_t n = 0; n < rows; ++n)
          std::memcpy(own + first.in + n * width, from + n * channels, sizeof(float) * channels);
      }
      for (int64_t n = 0; n < rows; ++n) own[first.in_valid + n] = row + n < real;
      states[g] = state + session * state_size;
      steps[g] = int64_t(states[g][0]);
      states[g][0] = float((steps[g] + 1) % CYCLE);
    }
    for (int64_t i = 0; i < length; ++i) {
      for (int64_t g = 0; g < count; ++g)
        step(program[i], weights, states[g], scratch + g * scratch_size, steps[g]);
      if (program[i].code == SEPARABLE)
        matrices(program[i], weights, scratch, scratch_size, count);
    }
    for (int64_t g = 0; g < count; ++g) {
      const float* own = scratch + g * scratch_size;
      for (int64_t r = 0; r < last.rows_out; ++r) {
        const int64_t at = (group + g) * last.rows_out + r;
        std::memcpy(y + at * last.channels_out, own + last.out + r * out,
                    sizeof(float) * last.channels_out);
        valid[at] = own[last.out_valid + r] != 0;
      }
    }
  }
}

// True if x [sessions, count], `x_step` from one session to the next, is within [−1, 1]; false for a
// NaN.
extern "C" bool stream_is_sound(const float* x, int64_t x_step, int64_t sessions, int64_t count) {
  bool sound = true;
  for (int64_t s = 0; s < sessions; ++s)
    for (int64_t n = 0; n < count; ++n) sound &= std::fabs(x[s * x_step + n]) <= 1;
  return sound;
}

// The rule of speechkit/rules/vad.py over frames of two logits: y [sessions, frames, 2] where valid;
// states [sessions, 7] of frames, began, ended, speaking, edge, pause, level. Writes (session, frame
// of these, at frame, whether it starts) for each edge, at most three per frame in any state, and
// returns their number.
extern "C" int64_t speech_edges(const double* thresholds, const int64_t* lengths, int64_t* states,
                                const float* y, const bool* valid, int64_t sessions, int64_t frames,
                                int64_t* edges) {
  const double onset = thresholds[0], offset = thresholds[1];
  const int64_t shortest = lengths[0], gap = lengths[1], before = lengths[2], after = lengths[3],
                longest = lengths[4], levels = lengths[5];
  int64_t found = 0;
  for (int64_t s = 0; s < sessions; ++s) {
    int64_t* state = states + 7 * s;
    int64_t &now = state[0], &began = state[1], &ended = state[2], &speaking = state[3],
            &edge = state[4], &pause = state[5], &level = state[6];
    for (int64_t f = 0; f < frames; ++f) {
      if (!valid[s * frames + f]) continue;
      const float* logits = y + 2 * (s * frames + f);
      const double top = std::max(logits[0], logits[1]);
      const double other = std::exp(logits[0] - top), speech = std::exp(logits[1] - top);
      const double probability = speech / (other + speech);
      const auto write = [&](bool starts) {
        const int64_t row[4] = {s, f, edge, starts};
        std::memcpy(edges + 4 * found++, row, sizeof row);
      };
      if (began < 0 && probability >= onset) {
        began = now;
      } else if (began >= 0 && probability < offset) {
        if (now - began >= shortest) ended = now;
        began = -1;
      }
      if (speaking && 2 * (now - edge) >= longest) {
        const int64_t here = std::min(int64_t(probability * double(levels)), levels - 1);
        if (pause < 0 || here <= level) pause = now, level = here;
      }
      if (began >= 0 && now + 1 - began >= shortest) {
        ended = -1;
        if (!speaking) {
          speaking = 1, edge = std::max(edge, began - before), pause = -1;
          write(true);
        }
      } else if (began < 0 && speaking && now + 1 - ended >= gap) {
        speaking = 0, edge = ended + after;
        write(false);
      }
      if (speaking && now + 1 - edge >= longest) {
        speaking = ended < 0 || pause < ended;
        edge = speaking ? pause : std::min(pause, ended + after);
        write(false);
        if (speaking) write(true);
        pause = -1;
      }
      ++now;
    }
  }
  return found;
}

// The maximum number of scratches, one per block.
extern "C" int64_t stream_group() { return GROUP; }

// The channels of a group in the layout of taps and past rows.
extern "C" int64_t stream_lanes() { return LANES; }
