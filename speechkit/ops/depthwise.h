// The inner loops of a depthwise convolution over time, shared by several ops.
//
// A panel of LANES channels is copied to contiguous memory. It is zero where the window reaches
// beyond the sound and where a frame is not valid. Its rows stay in the L1 cache for all taps. TILE
// outputs (or gradients of taps) are summed at once, each in its own register. Several panels are
// copied at a time, because longer runs of memory are faster to read and write. A dilated
// convolution is computed as several plain ones, each over the frames of one phase.

#pragma once

#include <algorithm>

#include "simd.h"

namespace speechkit {

constexpr int TILE = 8;
constexpr int64_t PANEL_BYTES = 16 << 10;

// Frames `first`, first + every, … of x [frames, channels], in panels of LANES channels that lie
// `pitch` apart, for `width` channels. Frames outside x, frames where `valid` (if given) is 0, and
// lanes from `width` on are zero.
template <class X, class T>
void copy_panels(const X* x, const bool* valid, int64_t frames, int64_t channels, int64_t width,
                 int64_t first, int64_t every, int64_t count, T* panels, int64_t pitch) {
  constexpr int64_t lanes = Vector<T>::lanes;
  for (int64_t row = 0; row < count; ++row) {
    const int64_t frame = first + row * every;
    T* to = panels + row * lanes;
    if (frame < 0 || frame >= frames || (valid && !valid[frame])) {
      for (int64_t c = 0; c < width; c += lanes, to += pitch) store(to, typename Vector<T>::type{});
      continue;
    }
    const X* from = x + frame * channels;
    int64_t c = 0;
    for (; c + lanes <= width; c += lanes, to += pitch) store(to, widen(from + c));
    if (c < width) store(to, widen_some<T>(from + c, width - c));
  }
}

// The inverse: rows of panels to frames first, first + every, … of y; zero where `kept` (if given)
// is 0.
template <class Y, class T>
void copy_back(const T* panels, int64_t pitch, int64_t count, const bool* kept, Y* y,
               int64_t channels, int64_t width, int64_t first, int64_t every) {
  constexpr int64_t lanes = Vector<T>::lanes;
  for (int64_t row = 0; row < count; ++row) {
    const int64_t frame = first + row * every;
    Y* to = y + frame * channels;
    if (kept && !kept[frame]) {
      std::memset(to, 0, sizeof(Y) * width);
      continue;
    }
    for (int64_t c = 0; c < width; c += lanes) {
      const auto value = load(panels + c / lanes * pitch + row * lanes);
      if (width - c >= lanes) {
        narrow(value, to + c);
      } else {
        narrow_some(value, to + c, width - c);
      }
    }
  }
}

// sum[n] += Σ_i a[i] b[i · step + n · spread] for n < N, rows of LANES each. If a is the taps, these
// are outputs of the convolution; if a is the output's gradient, they are gradients of the taps.
template <class T, int N>
inline void correlate(const T* a, const T* b, int64_t count, int64_t step, int64_t spread,
                      typename Vector<T>::type* sum) {
  constexpr int64_t lanes = Vector<T>::lanes;
  int64_t i = 0;
  if (step == 1 && spread == 1) {
    // each row of b is multiplied by two rows of a: one load for two products
    for (; i + 2 <= count; i += 2) {
      const auto a0 = load(a + i * lanes), a1 = load(a + (i + 1) * lanes);
#pragma GCC unroll 16
      for (int m = 0; m <= N; ++m) {
        const auto row = load(b + (i + m) * lanes);
        if (m < N) sum[m] += a0 * row;
        if (m >= 1) sum[m - 1] += a1 * row;
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

// N sums at a time, from sum n on, passed to `put(n, sum)`; returns the first sum that remains.
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

// The number of outputs whose input rows fill a panel in the L1 cache.
inline int64_t panel_outputs(int64_t taps, int64_t stride, int64_t dilation) {
  const int64_t rows = PANEL_BYTES / REGISTER_BYTES - dilation * (taps - 1);
  return std::max<int64_t>(4 * TILE, rows / stride / TILE * TILE);
}

inline int64_t rows_for(int64_t outputs, int64_t taps, int64_t stride, int64_t dilation) {
  return (outputs - 1) * stride + dilation * (taps - 1) + 1;
}

}  // namespace speechkit
