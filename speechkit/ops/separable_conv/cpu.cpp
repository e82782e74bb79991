// Depthwise convolution, 1×1 convolution, bias, residual and activation in one pass. The depthwise
// part writes a tile of frames to a buffer in the L2 cache, from which the 1×1 convolution reads.

#include "activation.h"
#include "depthwise.h"
#include "matmul.h"

using namespace speechkit;

namespace {

constexpr int64_t TILE_FRAMES = 96;

struct Shape {
  int64_t batch, frames, channels, taps, stride, dilation, left, frames_out, channels_out;
  int64_t precision, activation;
};

// Outputs first .. first + count − 1 of one utterance into rows of `step` floats.
void depthwise(const Shape& s, const float* x, const bool* valid, const float* taps, int64_t first,
               int64_t count, float* panel, float* to, int64_t step) {
  for (int64_t c = 0; c < s.channels; c += LANES) {
    const int64_t width = std::min(LANES, s.channels - c);
    copy_panels(x + c, valid, s.frames, s.channels, width, first * s.stride - s.left, 1,
                rows_for(count, s.taps, s.stride, s.dilation), panel, 0);
    correlate_all<float>(taps + c * s.taps, panel, s.taps, s.dilation, s.stride, count,
                         [=](int64_t n, Register sum) { store(to + n * step + c, sum); });
  }
}

void run(const Shape& s, const float* x, const bool* valid, const float* taps, const Matrix& w,
         const float* residual, const float* parameters, float* y, int threads) {
  const int64_t tiles = (s.frames_out + TILE_FRAMES - 1) / TILE_FRAMES;
  const int64_t step = round_up(s.channels, LANES);
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    Operand work;
    Buffer<float> rows(TILE_FRAMES * step);
    Buffer<float> panel(rows_for(TILE_FRAMES, std::max<int64_t>(1, s.taps), s.stride, s.dilation) *
                        LANES);
#pragma omp for collapse(2)
    for (int64_t b = 0; b < s.batch; ++b) {
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t first = tile * TILE_FRAMES;
        const int64_t count = std::min(TILE_FRAMES, s.frames_out - first);
        const float* sound = x + b * s.frames * s.channels;
        const float* from = sound + first * s.stride * s.channels;
        int64_t from_step = s.stride * s.channels;
        if (s.taps) {
          depthwise(s, sound, valid ? valid + b * s.frames : nullptr, taps, first, count,
                    panel.data(), rows.data(), step);
          from = rows.data(), from_step = step;
        }
        const int64_t at = (b * s.frames_out + first) * s.channels_out;
        float* out = y + at;
        const float* more = residual ? residual + at : nullptr;
        multiply(w, from, from_step, count, work, [=](int64_t r, int64_t c, Register sum) {
          const int64_t place = r * s.channels_out + c, width = s.channels_out - c;
          if (width >= LANES) {
            if (more) sum += load(more + place);
            if (s.activation == RELU) sum = sum < 0 ? Register{} : sum;
            store(out + place, sum);
          } else {
            for (int64_t n = 0; n < width; ++n) {
              const float value = sum[n] + (more ? more[place + n] : 0);
              out[place + n] = s.activation == RELU && value < 0 ? 0 : value;
            }
          }
        });
        if (s.activation != RELU) activate(s.activation, parameters, out, count * s.channels_out);
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
