// Depthwise convolution over time on channels-last tensors, and the gradient of its weight.

#include "depthwise.h"

using namespace speechkit;

namespace {

// Output o reads from row o · stride − left on. Rows of x that `valid_in` does not mark count as
// zero, outputs that `valid_out` does not mark are zero; either may be null.
template <class X, class T>
void convolve(const X* x, const bool* valid_in, const T* weight, X* y, const bool* valid_out,
              int64_t batch, int64_t frames, int64_t channels, int64_t taps, int64_t stride,
              int64_t dilation, int64_t left, int64_t frames_out, int threads) {
  constexpr int64_t lanes = Vector<T>::lanes;
  const int64_t groups = (channels + lanes - 1) / lanes;
  const int64_t most = panel_outputs(taps, stride, dilation);
#pragma omp parallel for collapse(2) num_threads(threads) if (threads > 1)
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t width = std::min(lanes, channels - g * lanes);
      Buffer<T> w(taps * lanes), panel(rows_for(most, taps, stride, dilation) * lanes);
      copy_panel(weight + g * lanes, nullptr, taps, channels, width, 0, taps, w.data());
      for (int64_t first = 0; first < frames_out; first += most) {
        const int64_t count = std::min(most, frames_out - first);
        copy_panel(x + b * frames * channels + g * lanes, valid_in ? valid_in + b * frames : nullptr,
                   frames, channels, width, first * stride - left,
                   rows_for(count, taps, stride, dilation), panel.data());
        X* out = y + (b * frames_out + first) * channels + g * lanes;
        const bool* kept = valid_out ? valid_out + b * frames_out + first : nullptr;
        correlate_all<T>(w.data(), panel.data(), taps, dilation, stride, count,
                         [=](int64_t n, typename Vector<T>::type sum) {
                           if (kept && !kept[n]) sum = typename Vector<T>::type{};
                           store_lanes<X, T>(out + n * channels, sum, width);
                         });
      }
    }
  }
}

template <class X, class T>
void weight_gradient(const X* x, const bool* valid, const X* dy, T* dw, int64_t batch,
                     int64_t frames, int64_t channels, int64_t taps, int64_t stride,
                     int64_t dilation, int64_t left, int64_t frames_out, int threads) {
  constexpr int64_t lanes = Vector<T>::lanes;
  const int64_t groups = (channels + lanes - 1) / lanes;
  const int64_t most = panel_outputs(taps, stride, dilation);
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t width = std::min(lanes, channels - g * lanes);
    Buffer<T> sum(taps * lanes), panel(rows_for(most, taps, stride, dilation) * lanes);
    Buffer<T> d(most * lanes);
    for (int64_t b = 0; b < batch; ++b) {
      for (int64_t first = 0; first < frames_out; first += most) {
        const int64_t count = std::min(most, frames_out - first);
        copy_panel(x + b * frames * channels + g * lanes, valid ? valid + b * frames : nullptr,
                   frames, channels, width, first * stride - left,
                   rows_for(count, taps, stride, dilation), panel.data());
        copy_panel(dy + b * frames_out * channels + g * lanes, nullptr, frames_out, channels, width,
                   first, count, d.data());
        T* total = sum.data();
        correlate_all<T>(d.data(), panel.data(), count, stride, dilation, taps,
                         [=](int64_t k, auto part) {
                           store(total + k * lanes, load(total + k * lanes) + part);
                         });
      }
    }
    for (int64_t k = 0; k < taps; ++k)
      std::memcpy(dw + k * channels + g * lanes, sum.data() + k * lanes, sizeof(T) * width);
  }
}

}  // namespace

// x [batch, frames, channels] and y [batch, frames_out, channels] in one type, the weight
// [taps, channels] in the type that the sums are made in.
#define DEPTHWISE_CONV(NAME, X, T)                                                                 \
  extern "C" void depthwise_conv_##NAME(                                                           \
      const X* x, const bool* valid_in, const T* weight, X* y, const bool* valid_out,              \
      int64_t batch, int64_t frames, int64_t channels, int64_t taps, int64_t stride,               \
      int64_t dilation, int64_t left, int64_t frames_out, int threads) {                           \
    convolve(x, valid_in, weight, y, valid_out, batch, frames, channels, taps, stride, dilation,   \
             left, frames_out, threads);                                                           \
  }                                                                                                \
  extern "C" void depthwise_conv_weight_##NAME(                                                    \
      const X* x, const bool* valid, const X* dy, T* dw, int64_t batch, int64_t frames,            \
      int64_t channels, int64_t taps, int64_t stride, int64_t dilation, int64_t left,              \
      int64_t frames_out, int threads) {                                                           \
    weight_gradient(x, valid, dy, dw, batch, frames, channels, taps, stride, dilation, left,       \
                    frames_out, threads);                                                          \
  }

DEPTHWISE_CONV(f32, float, float)
DEPTHWISE_CONV(f64, double, double)
DEPTHWISE_CONV(bf16, bfloat16, float)
