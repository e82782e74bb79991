// A whole net's step for sessions: a list of instructions over rows of channels, run for one session
// after the other.
//
// Every buffer holds rows of LD(channels) floats, a whole number of registers; what lies beyond the
// channels is never read as a channel. Beside it stand as many floats that say which rows are valid.
// A layer that looks back keeps its last rows, masked, and their validity in the session's state.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

constexpr int64_t LANES = 16;
typedef float Register __attribute__((vector_size(4 * LANES)));

enum Code : int64_t {
  DEPTHWISE, POINTWISE, AFFINE, ACTIVATE, LOG, DELAY, ADD, PREEMPHASIS, SPECTRUM, RESAMPLE,
  LOG_SOFTMAX, SLIDING_AVERAGE, RUNNING_AVERAGE, PCEN,
};

enum Activation : int64_t { NONE, RELU, SILU, HARDTANH };

// Offsets count floats: `in`, `out`, `other` and their valid flags in the scratch, `state` in the
// session's state, `weights` in the weights. `window` is scratch for the rows kept and the new ones.
struct Instruction {
  int64_t code, in, in_valid, out, out_valid, rows_in, rows_out, channels_in, channels_out;
  int64_t keep, state, window, weights, activation, taps, stride, dilation, left, rate;
  int64_t other;
};

inline int64_t ld(int64_t channels) { return (channels + LANES - 1) / LANES * LANES; }

inline Register load(const float* from) {
  Register v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

inline void store(float* to, Register v) { std::memcpy(to, &v, sizeof v); }

void activate(int64_t kind, const float* limits, float* x, int64_t count) {
  switch (kind) {
    case RELU:
      for (int64_t i = 0; i < count; ++i) x[i] = x[i] > 0 ? x[i] : x[i] == x[i] ? 0 : x[i];
      break;
    case SILU:
      for (int64_t i = 0; i < count; ++i) x[i] = x[i] / (1 + std::exp(-x[i]));
      break;
    case HARDTANH:
      for (int64_t i = 0; i < count; ++i) x[i] = std::min(std::max(x[i], limits[0]), limits[1]);
      break;
    default:
      break;
  }
}

// The rows kept and then the new ones, zero where not valid, and behind them their validity; the
// state takes the last `keep` of both.
const float* slide(const Instruction& op, const float* in, const float* valid, float* state,
                   float* window) {
  const int64_t width = ld(op.channels_in), rows = op.keep + op.rows_in;
  float* flags = window + rows * width;
  std::memcpy(window, state, sizeof(float) * op.keep * width);
  std::memcpy(flags, state + op.keep * width, sizeof(float) * op.keep);
  for (int64_t r = 0; r < op.rows_in; ++r) {
    float* to = window + (op.keep + r) * width;
    if (valid[r] != 0) {
      std::memcpy(to, in + r * width, sizeof(float) * width);
    } else {
      std::memset(to, 0, sizeof(float) * width);
    }
    flags[op.keep + r] = valid[r];
  }
  std::memcpy(state, window + op.rows_in * width, sizeof(float) * op.keep * width);
  std::memcpy(state + op.keep * width, flags + op.rows_in, sizeof(float) * op.keep);
  return flags;
}

void depthwise(const Instruction& op, const float* window, const float* weights, float* out) {
  const int64_t width = ld(op.channels_in);
  for (int64_t c = 0; c < width; c += LANES) {
    for (int64_t o = 0; o < op.rows_out; ++o) {
      const float* from = window + o * op.stride * width + c;
      // two sums, so that an addition need not wait for the one before
      Register even = {}, odd = {};
      int64_t k = 0;
      for (; k + 2 <= op.taps; k += 2) {
        even += load(weights + k * width + c) * load(from + k * op.dilation * width);
        odd += load(weights + (k + 1) * width + c) * load(from + (k + 1) * op.dilation * width);
      }
      if (k < op.taps) even += load(weights + k * width + c) * load(from + k * op.dilation * width);
      store(out + o * width + c, even + odd);
    }
  }
}

// R rows of y = x W + bias, W [channels_in, ld(channels_out)], four registers of outputs at a time.
template <int R, int V>
void pointwise_tile(const float* x, int64_t x_step, int64_t channels_in, const float* weights,
                    int64_t width, const float* bias, float* y, int64_t y_step) {
  Register sum[R][V];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) sum[r][v] = load(bias + v * LANES);
  for (int64_t i = 0; i < channels_in; ++i) {
    Register w[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) w[v] = load(weights + i * width + v * LANES);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const float value = x[r * x_step + i];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sum[r][v] += value * w[v];
    }
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) store(y + r * y_step + v * LANES, sum[r][v]);
}

template <int R>
void pointwise_rows(const float* x, int64_t x_step, const Instruction& op, const float* weights,
                    float* y) {
  const int64_t width = ld(op.channels_out);
  const float* bias = weights + op.channels_in * width;
  int64_t c = 0;
  for (; c + 4 * LANES <= width; c += 4 * LANES)
    pointwise_tile<R, 4>(x, x_step, op.channels_in, weights + c, width, bias + c, y + c, width);
  for (; c < width; c += LANES)
    pointwise_tile<R, 1>(x, x_step, op.channels_in, weights + c, width, bias + c, y + c, width);
}

void pointwise(const Instruction& op, const float* in, const float* weights, float* out) {
  const int64_t step = ld(op.channels_in) * op.stride, width = ld(op.channels_out);
  int64_t r = 0;
  for (; r + 4 <= op.rows_out; r += 4)
    pointwise_rows<4>(in + r * step, step, op, weights, out + r * width);
  for (; r < op.rows_out; ++r)
    pointwise_rows<1>(in + r * step, step, op, weights, out + r * width);
  const float* limits = weights + (op.channels_in + 1) * width;
  activate(op.activation, limits, out, op.rows_out * width);
}

// |DFT|² of `count` real samples placed `before` into 2^n: two halves as one complex transform.
// `twiddles` are cos and sin of 2π k / size for k < size / 2.
void power(const float* windowed, int64_t count, int64_t before, int64_t size,
           const float* twiddles, float* work, float* out) {
  const int64_t half = size / 2;
  const float *cosines = twiddles, *sines = twiddles + half;
  float *re = work, *im = work + half;
  int bits = 0;
  while ((int64_t(1) << bits) < half) ++bits;
  for (int64_t i = 0; i < half; ++i) {
    int64_t reversed = 0;
    for (int b = 0; b < bits; ++b) reversed |= ((i >> b) & 1) << (bits - 1 - b);
    const int64_t even = 2 * i - before, odd = even + 1;
    re[reversed] = even >= 0 && even < count ? windowed[even] : 0;
    im[reversed] = odd >= 0 && odd < count ? windowed[odd] : 0;
  }
  for (int64_t span = 1; span < half; span *= 2) {
    const int64_t step = size / (2 * span);
    for (int64_t start = 0; start < half; start += 2 * span) {
      for (int64_t k = 0; k < span; ++k) {
        const float c = cosines[k * step], s = -sines[k * step];
        const int64_t a = start + k, b = a + span;
        const float x = re[b] * c - im[b] * s, y = re[b] * s + im[b] * c;
        re[b] = re[a] - x;
        im[b] = im[a] - y;
        re[a] += x;
        im[a] += y;
      }
    }
  }
  for (int64_t k = 0; k <= half; ++k) {
    const int64_t a = k % half, b = (half - k) % half;
    const float c = k < half ? cosines[k] : -1.0f, s = k < half ? -sines[k] : 0.0f;
    const float even_re = (re[a] + re[b]) / 2, even_im = (im[a] - im[b]) / 2;
    const float odd_re = (im[a] + im[b]) / 2, odd_im = (re[b] - re[a]) / 2;
    const float x = even_re + c * odd_re - s * odd_im, y = even_im + c * odd_im + s * odd_re;
    out[k] = x * x + y * y;
  }
}

void spectrum(const Instruction& op, const float* window, const float* weights, float* work,
              float* out) {
  // weights: the Hann window, then the twiddles; `taps` samples in `dilation` of the transform
  const int64_t size = op.dilation, before = op.rate;
  const float* hann = weights;
  const float* twiddles = weights + ld(op.taps);
  const int64_t width = ld(op.channels_out);
  float* windowed = work + size;
  for (int64_t o = 0; o < op.rows_out; ++o) {
    // one channel: a row of the window is a register of which only the first lane counts
    for (int64_t n = 0; n < op.taps; ++n)
      windowed[n] = hann[n] * window[(o * op.stride + n) * LANES];
    power(windowed, op.taps, before, size, twiddles, work, out + o * width);
  }
}

void resample(const Instruction& op, const float* window, const float* weights, float* out) {
  for (int64_t o = 0; o < op.rows_out; ++o) {
    const float* filter = weights + o % op.rate * op.taps;
    const float* from = window + o / op.rate * op.stride * LANES;
    float sum = 0;
    for (int64_t n = 0; n < op.taps; ++n) sum += filter[n] * from[n * LANES];
    out[o * LANES] = sum;
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

void sliding_average(const Instruction& op, const float* window, const float* flags, float* out) {
  const int64_t width = ld(op.channels_in);
  for (int64_t r = 0; r < op.rows_in; ++r) {
    float count = 0;
    for (int64_t k = 0; k < op.taps; ++k) count += flags[r + k];
    const float scale = 1 / std::max(count, 1.0f);
    for (int64_t c = 0; c < width; c += LANES) {
      Register sum = {};
      for (int64_t k = 0; k < op.taps; ++k) sum += load(window + (r + k) * width + c);
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

// weights: decay, gain, bias, power, epsilon; state: the decayed energies, and their count behind.
void pcen(const Instruction& op, const float* in, const float* valid, const float* weights,
          float* state, float* out) {
  const int64_t width = ld(op.channels_in);
  const float decay = weights[0], gain = weights[1], bias = weights[2], power = weights[3];
  const float epsilon = weights[4], floor = std::pow(bias, power);
  float& count = state[width];
  for (int64_t r = 0; r < op.rows_in; ++r) {
    const float* x = in + r * width;
    const bool real = valid[r] != 0;
    if (real) count = decay * count + 1;
    for (int64_t c = 0; c < op.channels_in; ++c) {
      if (real) state[c] = decay * state[c] + std::exp(x[c]);
      const float mean = state[c] / std::max(count, 1e-9f);
      const float y = std::exp(x[c] - gain * std::log(epsilon + mean));
      out[r * width + c] = std::pow(y + bias, power) - floor;
    }
  }
}

void step(const Instruction& op, const float* all_weights, float* all_state, float* scratch) {
  const float* in = scratch + op.in;
  const float* valid = scratch + op.in_valid;
  const float* weights = all_weights + op.weights;
  float *out = scratch + op.out, *out_valid = scratch + op.out_valid;
  float *state = all_state + op.state, *window = scratch + op.window;
  const float* flags = valid;
  int64_t first = 0, every = 1;
  switch (op.code) {
    case DEPTHWISE:
      flags = slide(op, in, valid, state, window);
      depthwise(op, window, weights, out);
      first = op.left, every = op.stride;
      break;
    case POINTWISE:
      pointwise(op, in, weights, out);
      every = op.stride;
      break;
    case AFFINE: {
      const int64_t width = ld(op.channels_in);
      for (int64_t r = 0; r < op.rows_in; ++r)
        for (int64_t c = 0; c < width; ++c)
          out[r * width + c] = in[r * width + c] * weights[c] + weights[width + c];
      break;
    }
    case ACTIVATE: {
      const int64_t count = op.rows_in * ld(op.channels_in);
      if (out != in) std::memcpy(out, in, sizeof(float) * count);
      activate(op.activation, weights, out, count);
      break;
    }
    case LOG: {
      const int64_t width = ld(op.channels_in);
      for (int64_t r = 0; r < op.rows_in; ++r)
        for (int64_t c = 0; c < op.channels_in; ++c)
          out[r * width + c] = std::log(in[r * width + c] + weights[0]);
      break;
    }
    case DELAY: {
      // as they are, valid or not
      const int64_t width = ld(op.channels_in), rows = op.keep + op.rows_in;
      float* kept_flags = window + rows * width;
      std::memcpy(window, state, sizeof(float) * op.keep * width);
      std::memcpy(kept_flags, state + op.keep * width, sizeof(float) * op.keep);
      std::memcpy(window + op.keep * width, in, sizeof(float) * op.rows_in * width);
      std::memcpy(kept_flags + op.keep, valid, sizeof(float) * op.rows_in);
      std::memcpy(state, window + op.rows_in * width, sizeof(float) * op.keep * width);
      std::memcpy(state + op.keep * width, kept_flags + op.rows_in, sizeof(float) * op.keep);
      std::memcpy(out, window, sizeof(float) * op.rows_in * width);
      flags = kept_flags;
      break;
    }
    case ADD: {
      const float* other = scratch + op.other;
      const int64_t count = op.rows_in * ld(op.channels_in);
      for (int64_t i = 0; i < count; ++i) out[i] = in[i] + other[i];
      activate(op.activation, weights, out, count);
      break;
    }
    case PREEMPHASIS:
      flags = slide(op, in, valid, state, window);
      for (int64_t r = 0; r < op.rows_out; ++r)
        out[r * LANES] = window[(r + 1) * LANES] - weights[0] * window[r * LANES];
      first = op.left;
      break;
    case SPECTRUM:
      flags = slide(op, in, valid, state, window);
      spectrum(op, window, weights, scratch + op.other, out);
      first = op.left + op.stride - 1, every = op.stride;
      break;
    case RESAMPLE:
      flags = slide(op, in, valid, state, window);
      resample(op, window, weights, out);
      for (int64_t o = 0; o < op.rows_out; ++o)
        out_valid[o] = flags[op.left + o * op.stride / op.rate];
      return;
    case LOG_SOFTMAX:
      log_softmax(op, in, out);
      break;
    case SLIDING_AVERAGE:
      flags = slide(op, in, valid, state, window);
      sliding_average(op, window, flags, out);
      first = op.left;
      break;
    case RUNNING_AVERAGE:
      running_average(op, in, valid, state, out);
      break;
    case PCEN:
      pcen(op, in, valid, weights, state, out);
      break;
  }
  for (int64_t r = 0; r < op.rows_out; ++r) out_valid[r] = flags[first + r * every];
}

}  // namespace

// One block for each of `sessions`: x [sessions, samples], its first `real` samples valid; y
// [sessions, rows_out, channels_out] and valid [sessions, rows_out] of the last instruction; state
// [sessions, state_size]. The first instruction reads its input at the start of the scratch.
extern "C" void stream_step(const Instruction* program, int64_t length, const float* weights,
                            float* state, int64_t state_size, const float* x, int64_t samples,
                            int64_t real, float* y, float* valid, int64_t sessions,
                            float* scratch) {
  const Instruction &first = program[0], &last = program[length - 1];
  for (int64_t s = 0; s < sessions; ++s) {
    for (int64_t n = 0; n < samples; ++n) {
      scratch[first.in + n * LANES] = x[s * samples + n];
      scratch[first.in_valid + n] = n < real;
    }
    for (int64_t i = 0; i < length; ++i)
      step(program[i], weights, state + s * state_size, scratch);
    for (int64_t r = 0; r < last.rows_out; ++r) {
      std::memcpy(y + (s * last.rows_out + r) * last.channels_out,
                  scratch + last.out + r * ld(last.channels_out),
                  sizeof(float) * last.channels_out);
      valid[s * last.rows_out + r] = scratch[last.out_valid + r];
    }
  }
}
