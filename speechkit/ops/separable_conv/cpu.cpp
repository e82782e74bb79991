// Depthwise convolution, 1×1 convolution, bias, residual and activation in one pass. The depthwise
// part writes a tile of frames to a buffer in the L2 cache, from which the 1×1 convolution reads.

#include "activation.h"
#include "depthwise.h"
#include "matmul.h"

using namespace speechkit;

namespace {

// The most frames of a tile: with more, its rows would crowd the matrix out of the L2 cache.
constexpr int64_t MOST_FRAMES = 168;
// The panels of the input that are copied at once, as longer runs of memory are faster to read.
constexpr int64_t PANELS = 4;

struct Shape {
  int64_t batch, frames, channels, taps, stride, dilation, left, frames_out, channels_out;
  int64_t precision, activation;

  // Tiles of equal size, and equally many for each thread.
  int64_t tile_frames(int threads) const {
    int64_t tiles = std::max<int64_t>(1, (frames_out + MOST_FRAMES - 1) / MOST_FRAMES);
    if (batch % threads) tiles = round_up(tiles, threads);
    return std::max<int64_t>(ROWS, round_up((frames_out + tiles - 1) / tiles, ROWS));
  }
};

// The rows of y from one tile on, with what is added to them.
struct Output {
  float* y;
  const float* residual;
  int64_t columns;
  bool relu;

  void fetch(int64_t r, int64_t c) const {
    if (c >= columns) return;
    __builtin_prefetch(y + r * columns + c, 1);
    if (residual) __builtin_prefetch(residual + r * columns + c);
  }

  void put(int64_t r, int64_t c, Register sum) const {
    const int64_t at = r * columns + c, width = columns - c;
    // where registers are shorter than those of AVX-512, some hold only padding
    if (width <= 0) return;
    const bool whole = width >= LANES;
    if (residual) sum += whole ? load(residual + at) : widen_some<float>(residual + at, width);
    if (relu) sum = sum < 0 ? Register{} : sum;
    if (whole) {
      store(y + at, sum);
    } else {
      narrow_some(sum, y + at, width);
    }
  }
};

// Outputs first .. first + count − 1 of one utterance into rows of `step` numbers.
template <class X>
void depthwise(const Shape& s, const float* x, const bool* valid, const float* taps, int64_t first,
               int64_t count, float* panels, X* to, int64_t step) {
  const int64_t start = first * s.stride - s.left;
  const int64_t rows = rows_for(count, s.taps, s.stride, s.dilation);
  for (int64_t c = 0; c < s.channels; c += PANELS * LANES) {
    const int64_t width = std::min(PANELS * LANES, s.channels - c);
    copy_panels(x + c, valid, s.frames, s.channels, width, start, 1, rows, panels, rows * LANES);
    for (int64_t p = c; p < c + width; p += LANES)
      correlate_all<float>(taps + p * s.taps, panels + (p - c) * rows, s.taps, s.dilation, s.stride,
                           count, [=](int64_t n, Register sum) { narrow(sum, to + n * step + p); });
  }
}

void run(const Shape& s, const float* x, const bool* valid, const float* taps, const Matrix& w,
         const float* residual, const float* parameters, float* y, int threads) {
  const int64_t tile_frames = s.tile_frames(threads);
  const int64_t tiles = (s.frames_out + tile_frames - 1) / tile_frames;
  const int64_t step = round_up(s.channels, LANES);
  const bool half = s.precision == BFLOAT16;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    // static, so that their memory is reused by later calls
    static thread_local Operand work;
    static thread_local Buffer<float> rows, panels;
    if (s.taps) {
      half ? grow(work.half, tile_frames * step) : grow(rows, tile_frames * step);
      grow(panels, rows_for(tile_frames, s.taps, s.stride, s.dilation) * PANELS * LANES);
    }
#pragma omp for collapse(2)
    for (int64_t b = 0; b < s.batch; ++b) {
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t first = tile * tile_frames;
        const int64_t count = std::min(tile_frames, s.frames_out - first);
        const float* sound = x + b * s.frames * s.channels;
        const bool* marks = valid ? valid + b * s.frames : nullptr;
        const int64_t at = (b * s.frames_out + first) * s.channels_out;
        const Output out{y + at, residual ? residual + at : nullptr, s.channels_out,
                         s.activation == RELU};
        const auto put = [=](int64_t r, int64_t c, Register sum) { out.put(r, c, sum); };
        const auto fetch = [=](int64_t r, int64_t c) { out.fetch(r, c); };
        if (s.taps && half) {
          depthwise(s, sound, marks, taps, first, count, panels.data(), work.half.data(), step);
          multiply(w, work.half.data(), step, count, put, fetch);
        } else if (s.taps) {
          depthwise(s, sound, marks, taps, first, count, panels.data(), rows.data(), step);
          multiply(w, rows.data(), step, count, work, put, fetch);
        } else {
          const int64_t apart = s.stride * s.channels;
          multiply(w, sound + first * apart, apart, count, work, put, fetch);
        }
        if (s.activation != RELU)
          activate(s.activation, parameters, y + at, count, s.channels_out, s.channels_out);
      }
    }
  }
}

}  // namespace

// Packs W [c_out, c_in] for `precision`; for int8 it also writes scale and offset [c_out].
extern "C" void separable_conv_pack(const float* w, void* packed, float* scale, float* offset,
                                    int64_t precision, int64_t c_in, int64_t c_out, int) {
  pack_for(precision, w, c_in, c_out, packed, scale, offset);
}

// x [batch, frames, channels], valid [batch, frames] or null, taps [groups of LANES, taps, LANES],
// residual as y or null, y [batch, frames_out, channels_out]. Without taps the matrix reads the
// frames of x directly.
extern "C" void separable_conv(const float* x, const bool* valid, const float* taps,
                               const void* packed, const float* bias, const float* scale,
                               const float* offset, const float* residual, const float* parameters,
                               float* y, int64_t batch, int64_t frames, int64_t channels,
                               int64_t count, int64_t stride, int64_t dilation, int64_t left,
                               int64_t frames_out, int64_t channels_out, int64_t precision,
                               int64_t activation, int threads) {
  const Shape s{batch, frames,     channels,     count,     stride,    dilation,
                left,  frames_out, channels_out, precision, activation};
  const Matrix w{precision, channels, channels_out, packed, bias, scale, offset};
  run(s, x, valid, taps, w, residual, parameters, y, threads);
}

// The lanes of a register, which is the size of a group of taps.
extern "C" int64_t separable_conv_lanes() { return LANES; }

// One convolution with stride 1 that keeps the number of frames.
struct Layer {
  const float* taps;
  const void* packed;
  const float *bias, *scale, *offset, *parameters;
  int64_t channels, channels_out, count, dilation, left, precision, activation;
};

// Several layers one after another, from x to y; a and b hold the results in between by turns.
static void row(const Layer* layers, int64_t count, const float* x, const bool* valid, float* a,
                float* b, float* y, const float* residual, int64_t batch, int64_t frames,
                int threads) {
  for (int64_t i = 0; i < count; ++i) {
    const Layer& l = layers[i];
    const bool last = i + 1 == count;
    float* to = last ? y : i % 2 ? b : a;
    separable_conv(x, valid, l.taps, l.packed, l.bias, l.scale, l.offset, last ? residual : nullptr,
                   l.parameters, to, batch, frames, l.channels, l.count, 1, l.dilation, l.left,
                   frames, l.channels_out, l.precision, l.activation, threads);
    x = to;
  }
}

// y = body(x), where the last layer of the body adds shortcut(x). No layer returns more than `area`
// numbers; `work` has room for three times as many.
extern "C" void separable_block(const Layer* body, int64_t count, const Layer* shortcut,
                                int64_t shortcuts, const float* x, const bool* valid, float* work,
                                float* y, int64_t area, int64_t batch, int64_t frames,
                                int threads) {
  float *a = work, *b = work + area, *more = work + 2 * area;
  row(shortcut, shortcuts, x, valid, a, b, more, nullptr, batch, frames, threads);
  row(body, count, x, valid, a, b, y, more, batch, frames, threads);
}
