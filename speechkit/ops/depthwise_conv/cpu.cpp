// Depthwise convolution over time on channels-last tensors, and the gradient of its weight.
//
// A panel of LANES channels is copied to memory in order, zeros where the window reaches beyond the
// sound; its rows then stay in the first cache while every tap passes over them. TILE outputs (or
// gradients of taps) are summed at once, each in a register of its own.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

namespace {

constexpr int64_t REGISTER_BYTES = 64;
constexpr int TILE = 12;
constexpr int64_t PANEL_BYTES = 24 << 10;

// Memory that begins on a cache line: a register's load would touch two of them otherwise.
template <class T>
struct Aligned {
  using value_type = T;
  Aligned() = default;
  template <class U>
  Aligned(const Aligned<U>&) {}
  T* allocate(size_t n) {
    return static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t(64)));
  }
  void deallocate(T* p, size_t) { ::operator delete(p, std::align_val_t(64)); }
  bool operator==(const Aligned&) const { return true; }
  bool operator!=(const Aligned&) const { return false; }
};
template <class T>
using Buffer = std::vector<T, Aligned<T>>;

template <class T>
struct Vector {
  typedef T type __attribute__((vector_size(REGISTER_BYTES)));
  static constexpr int64_t lanes = REGISTER_BYTES / sizeof(T);
};

template <class T>
inline typename Vector<T>::type load(const T* from) {
  typename Vector<T>::type v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

// Rows first .. first + count − 1 of x [frames, channels], `width` channels of each; rows outside
// x and lanes from `width` on are zero.
template <class T>
void copy_panel(const T* x, int64_t frames, int64_t channels, int64_t width, int64_t first,
                int64_t count, T* panel) {
  constexpr int64_t lanes = Vector<T>::lanes;
  const int64_t begin = std::clamp<int64_t>(-first, 0, count);
  const int64_t end = std::clamp<int64_t>(frames - first, begin, count);
  std::fill(panel, panel + begin * lanes, T(0));
  std::fill(panel + end * lanes, panel + count * lanes, T(0));
  for (int64_t row = begin; row < end; ++row) {
    const T* from = x + (first + row) * channels;
    T* to = panel + row * lanes;
    if (width == lanes) {
      std::memcpy(to, from, sizeof(T) * lanes);
    } else {
      for (int64_t c = 0; c < lanes; ++c) to[c] = c < width ? from[c] : T(0);
    }
  }
}

template <class T>
void store(typename Vector<T>::type value, int64_t width, T* to) {
  std::memcpy(to, &value, sizeof(T) * width);
}

// sum[n] += Σ_i a[i] b[i · step + n · spread] for n < N, rows of LANES each. With a the taps these
// are outputs of the convolution; with a the output's gradient they are gradients of the taps.
template <class T, int N>
inline void correlate(const T* a, const T* b, int64_t count, int64_t step, int64_t spread,
                      typename Vector<T>::type* sum) {
  constexpr int64_t lanes = Vector<T>::lanes;
  int64_t i = 0;
  if (step == 1 && spread == 1) {
    // each row of b meets four of a at once: a load for every four products
    for (; i + 4 <= count; i += 4) {
      const auto a0 = load(a + i * lanes), a1 = load(a + (i + 1) * lanes);
      const auto a2 = load(a + (i + 2) * lanes), a3 = load(a + (i + 3) * lanes);
#pragma GCC unroll 16
      for (int m = 0; m < N + 3; ++m) {
        const auto row = load(b + (i + m) * lanes);
        if (m < N) sum[m] += a0 * row;
        if (m >= 1 && m - 1 < N) sum[m - 1] += a1 * row;
        if (m >= 2 && m - 2 < N) sum[m - 2] += a2 * row;
        if (m >= 3) sum[m - 3] += a3 * row;
      }
    }
  }
  for (; i < count; ++i) {
    const auto one = load(a + i * lanes);
    const T* row = b + i * step * lanes;
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) sum[n] += one * load(row + n * spread * lanes);
  }
}

// N sums at a time, from sum n on, through `put(n, sum)`; returns the first that is left.
template <class T, int N, class Put>
inline int64_t correlate_tiles(const T* a, const T* b, int64_t terms, int64_t step, int64_t spread,
                               int64_t n, int64_t count, Put put) {
  for (; n + N <= count; n += N) {
    typename Vector<T>::type sum[N] = {};
    correlate<T, N>(a, b + n * spread * Vector<T>::lanes, terms, step, spread, sum);
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) put(n + i, sum[i]);
  }
  return n;
}

template <class T, class Put>
inline void correlate_all(const T* a, const T* b, int64_t terms, int64_t step, int64_t spread,
                          int64_t count, Put put) {
  int64_t n = correlate_tiles<T, TILE>(a, b, terms, step, spread, 0, count, put);
  n = correlate_tiles<T, 4>(a, b, terms, step, spread, n, count, put);
  correlate_tiles<T, 1>(a, b, terms, step, spread, n, count, put);
}

// Outputs whose input rows fill a panel that the first cache holds.
template <class T>
int64_t panel_outputs(int64_t taps, int64_t stride, int64_t dilation) {
  const int64_t rows = PANEL_BYTES / REGISTER_BYTES - dilation * (taps - 1);
  return std::max<int64_t>(4 * TILE, rows / stride / TILE * TILE);
}

template <class T>
void convolve(const T* x, const T* weight, T* y, int64_t batch, int64_t frames, int64_t channels,
              int64_t taps, int64_t stride, int64_t dilation, int64_t left, int64_t frames_out,
              int threads) {
  constexpr int64_t lanes = Vector<T>::lanes;
  const int64_t groups = (channels + lanes - 1) / lanes;
  const int64_t most = panel_outputs<T>(taps, stride, dilation);
#pragma omp parallel for collapse(2) num_threads(threads) if (threads > 1)
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t width = std::min(lanes, channels - g * lanes);
      Buffer<T> w(taps * lanes);
      copy_panel(weight + g * lanes, taps, channels, width, 0, taps, w.data());
      Buffer<T> panel((((most - 1) * stride) + dilation * (taps - 1) + 1) * lanes);
      for (int64_t first = 0; first < frames_out; first += most) {
        const int64_t count = std::min(most, frames_out - first);
        const int64_t rows = (count - 1) * stride + dilation * (taps - 1) + 1;
        copy_panel(x + b * frames * channels + g * lanes, frames, channels, width,
                   first * stride - left, rows, panel.data());
        T* out = y + (b * frames_out + first) * channels + g * lanes;
        correlate_all<T>(w.data(), panel.data(), taps, dilation, stride, count,
                         [=](int64_t n, auto sum) { store<T>(sum, width, out + n * channels); });
      }
    }
  }
}

template <class T>
void weight_gradient(const T* x, const T* dy, T* dw, int64_t batch, int64_t frames,
                     int64_t channels, int64_t taps, int64_t stride, int64_t dilation,
                     int64_t frames_out, int threads) {
  constexpr int64_t lanes = Vector<T>::lanes;
  const int64_t groups = (channels + lanes - 1) / lanes;
  const int64_t most = panel_outputs<T>(taps, stride, dilation);
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t width = std::min(lanes, channels - g * lanes);
    Buffer<T> sum(taps * lanes);
    Buffer<T> panel((((most - 1) * stride) + dilation * (taps - 1) + 1) * lanes);
    Buffer<T> d(most * lanes);
    for (int64_t b = 0; b < batch; ++b) {
      for (int64_t first = 0; first < frames_out; first += most) {
        const int64_t count = std::min(most, frames_out - first);
        const int64_t rows = (count - 1) * stride + dilation * (taps - 1) + 1;
        copy_panel(x + b * frames * channels + g * lanes, frames, channels, width, first * stride,
                   rows, panel.data());
        copy_panel(dy + b * frames_out * channels + g * lanes, frames_out, channels, width, first,
                   count, d.data());
        T* total = sum.data();
        correlate_all<T>(d.data(), panel.data(), count, stride, dilation, taps,
                         [=](int64_t k, auto part) {
                           store<T>(load(total + k * lanes) + part, lanes, total + k * lanes);
                         });
      }
    }
    for (int64_t k = 0; k < taps; ++k)
      std::memcpy(dw + k * channels + g * lanes, sum.data() + k * lanes, sizeof(T) * width);
  }
}

}  // namespace

// x [batch, frames, channels], weight [taps, channels], y [batch, frames_out, channels]; output o
// reads from row o · stride − left on.
#define DEPTHWISE_CONV(NAME, T)                                                                   \
  extern "C" void depthwise_conv_##NAME(const T* x, const T* weight, T* y, int64_t batch,         \
                                        int64_t frames, int64_t channels, int64_t taps,           \
                                        int64_t stride, int64_t dilation, int64_t left,           \
                                        int64_t frames_out, int threads) {                        \
    convolve(x, weight, y, batch, frames, channels, taps, stride, dilation, left, frames_out,     \
             threads);                                                                            \
  }                                                                                               \
  extern "C" void depthwise_conv_weight_##NAME(                                                   \
      const T* x, const T* dy, T* dw, int64_t batch, int64_t frames, int64_t channels,            \
      int64_t taps, int64_t stride, int64_t dilation, int64_t frames_out, int threads) {          \
    weight_gradient(x, dy, dw, batch, frames, channels, taps, stride, dilation, frames_out,       \
                    threads);                                                                     \
  }

DEPTHWISE_CONV(f32, float)
DEPTHWISE_CONV(f64, double)
