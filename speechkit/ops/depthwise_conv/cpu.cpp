// Depthwise convolution over time on channels-last tensors, and the gradient of its weight.

#include "depthwise.h"

using namespace speechkit;

namespace {

// The memory of one thread: panels of the input, of its factors, and of the sums.
template <class T>
struct Work {
  Buffer<T> in, with, out;
};

struct Shape {
  int64_t batch, frames, channels, taps, stride, dilation, left, frames_out;

  // With stride 1 each of `dilation` phases is a convolution without dilation.
  int64_t phases() const { return stride == 1 ? dilation : 1; }
  int64_t step() const { return stride == 1 ? 1 : dilation; }
  int64_t outputs(int64_t phase) const { return (frames_out - phase + phases() - 1) / phases(); }
  int64_t most() const { return panel_outputs(taps, stride, step()); }
  int64_t rows(int64_t count) const { return rows_for(count, taps, stride, step()); }
};

// The channels that one thread copies at once: whole rows if there is only one thread.
template <class T>
int64_t band_of(const Shape& s, int threads) {
  constexpr int64_t lanes = Vector<T>::lanes;
  const int64_t groups = (s.channels + lanes - 1) / lanes;
  return (groups + threads - 1) / threads * lanes;
}

// Calls part(phase, its first output, number of outputs) for a whole utterance.
template <class Part>
void for_blocks(const Shape& s, Part part) {
  for (int64_t phase = 0; phase < s.phases(); ++phase)
    for (int64_t first = 0; first < s.outputs(phase); first += s.most())
      part(phase, first, std::min(s.most(), s.outputs(phase) - first));
}

// The input for the outputs of a phase from `first` on.
template <class X, class T>
void copy_input(const Shape& s, const X* x, const bool* valid, int64_t b, int64_t c, int64_t width,
                int64_t phase, int64_t first, int64_t count, T* panels) {
  copy_panels(x + b * s.frames * s.channels + c, valid ? valid + b * s.frames : nullptr, s.frames,
              s.channels, width, phase + first * s.stride * s.phases() - s.left, s.phases(),
              s.rows(count), panels, s.rows(s.most()) * Vector<T>::lanes);
}

// Output o reads from row o · stride − left on. Rows of x count as zero where `valid_in` is 0;
// outputs are zero where `valid_out` is 0. Either may be null.
template <class X, class T>
void convolve(const Shape& s, const X* x, const bool* valid_in, const T* weight, X* y,
              const bool* valid_out, int threads) {
  constexpr int64_t lanes = Vector<T>::lanes;
  const int64_t band = band_of<T>(s, threads), bands = (s.channels + band - 1) / band;
  const int64_t in_pitch = s.rows(s.most()) * lanes, out_pitch = s.most() * lanes;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    Work<T> work{Buffer<T>(band / lanes * in_pitch), Buffer<T>(band * s.taps),
                 Buffer<T>(band / lanes * out_pitch)};
#pragma omp for collapse(2)
    for (int64_t g = 0; g < bands; ++g) {
      for (int64_t b = 0; b < s.batch; ++b) {
        const int64_t c = g * band, width = std::min(band, s.channels - c);
        const bool* kept = valid_out ? valid_out + b * s.frames_out : nullptr;
        copy_panels(weight + c, nullptr, s.taps, s.channels, width, 0, 1, s.taps, work.with.data(),
                    s.taps * lanes);
        for_blocks(s, [&](int64_t phase, int64_t first, int64_t count) {
          copy_input(s, x, valid_in, b, c, width, phase, first, count, work.in.data());
          for (int64_t p = 0; p * lanes < width; ++p) {
            T* out = work.out.data() + p * out_pitch;
            correlate_all<T>(work.with.data() + p * s.taps * lanes, work.in.data() + p * in_pitch,
                             s.taps, s.step(), s.stride, count,
                             [=](int64_t n, auto sum) { store(out + n * lanes, sum); });
          }
          copy_back(work.out.data(), out_pitch, count, kept, y + b * s.frames_out * s.channels + c,
                    s.channels, width, phase + first * s.phases(), s.phases());
        });
      }
    }
  }
}

template <class X, class T>
void weight_gradient(const Shape& s, const X* x, const bool* valid, const X* dy, T* dw,
                     int threads) {
  constexpr int64_t lanes = Vector<T>::lanes;
  const int64_t band = band_of<T>(s, threads), bands = (s.channels + band - 1) / band;
  const int64_t in_pitch = s.rows(s.most()) * lanes, with_pitch = s.most() * lanes;
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t g = 0; g < bands; ++g) {
    const int64_t c = g * band, width = std::min(band, s.channels - c);
    Work<T> work{Buffer<T>(band / lanes * in_pitch), Buffer<T>(band / lanes * with_pitch),
                 Buffer<T>(band * s.taps)};
    for (int64_t b = 0; b < s.batch; ++b) {
      for_blocks(s, [&](int64_t phase, int64_t first, int64_t count) {
        copy_input(s, x, valid, b, c, width, phase, first, count, work.in.data());
        copy_panels(dy + b * s.frames_out * s.channels + c, nullptr, s.frames_out, s.channels,
                    width, phase + first * s.phases(), s.phases(), count, work.with.data(),
                    with_pitch);
        for (int64_t p = 0; p * lanes < width; ++p) {
          T* total = work.out.data() + p * s.taps * lanes;
          correlate_all<T>(work.with.data() + p * with_pitch, work.in.data() + p * in_pitch, count,
                           s.stride, s.step(), s.taps, [=](int64_t k, auto part) {
                             store(total + k * lanes, load(total + k * lanes) + part);
                           });
        }
      });
    }
    copy_back(work.out.data(), s.taps * lanes, s.taps, nullptr, dw + c, s.channels, width, 0, 1);
  }
}

}  // namespace

// x [batch, frames, channels] and y [batch, frames_out, channels] in one type, the weight
// [taps, channels] in the type of the sums.
#define DEPTHWISE_CONV(NAME, X, T)                                                                \
  extern "C" void depthwise_conv_##NAME(                                                          \
      const X* x, const bool* valid_in, const T* weight, X* y, const bool* valid_out,             \
      int64_t batch, int64_t frames, int64_t channels, int64_t taps, int64_t stride,              \
      int64_t dilation, int64_t left, int64_t frames_out, int threads) {                          \
    convolve(Shape{batch, frames, channels, taps, stride, dilation, left, frames_out}, x,         \
             valid_in, weight, y, valid_out, threads);                                            \
  }                                                                                               \
  extern "C" void depthwise_conv_weight_##NAME(const X* x, const bool* valid, const X* dy, T* dw, \
                                               int64_t batch, int64_t frames, int64_t channels,   \
                                               int64_t taps, int64_t stride, int64_t dilation,    \
                                               int64_t left, int64_t frames_out, int threads) {   \
    weight_gradient(Shape{batch, frames, channels, taps, stride, dilation, left, frames_out}, x,  \
                    valid, dy, dw, threads);                                                      \
  }

DEPTHWISE_CONV(f32, float, float)
DEPTHWISE_CONV(f64, double, double)
DEPTHWISE_CONV(bf16, bfloat16, float)
