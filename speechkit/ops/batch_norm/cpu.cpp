// Batch normalisation over the valid rows of a matrix in two passes over memory, and its gradients
// in two more.

#include <algorithm>
#include <cmath>

#include "simd.h"

using namespace speechkit;

namespace {

// rows whose sums are made in the type of the data before they join the totals
constexpr int64_t BLOCK = 32;

template <class T>
int64_t padded(int64_t channels) {
  constexpr int64_t lanes = Vector<T>::lanes;
  return (channels + lanes - 1) / lanes * lanes;
}

// A register of a row from channel c on, and one to it.
template <class T, class X>
inline typename Vector<T>::type from_row(const X* row, int64_t c, int64_t channels) {
  const int64_t width = channels - c;
  return width >= Vector<T>::lanes ? widen(row + c) : widen_some<T>(row + c, width);
}
template <class T, class X>
inline void to_row(typename Vector<T>::type value, X* row, int64_t c, int64_t channels) {
  const int64_t width = channels - c;
  if (width >= Vector<T>::lanes) {
    narrow(value, row + c);
  } else {
    narrow_some(value, row + c, width);
  }
}

// Runs part(first row, last row, totals) on a share of the rows for each thread; the sums of
// `count` totals are the same for one number of threads, whichever ends first.
template <class Part>
void sum_rows(int64_t rows, int64_t count, double* totals, int threads, Part part) {
  std::vector<double> each(threads * count);
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int t = 0; t < threads; ++t)
    part(rows * t / threads, rows * (t + 1) / threads, each.data() + t * count);
  std::fill(totals, totals + count, 0.0);
  for (int t = 0; t < threads; ++t)
    for (int64_t i = 0; i < count; ++i) totals[i] += each[t * count + i];
}

template <class X, class T>
void statistics(const X* x, const bool* valid, int64_t rows, int64_t channels, double* mean,
                double* variance, int threads) {
  // the deviations are taken from the first valid row, so that their squares do not cancel
  constexpr int64_t lanes = Vector<T>::lanes;
  const int64_t width = padded<T>(channels);
  std::vector<double> totals(2 * width + 1);
  Buffer<T> origin(width);
  const int64_t first = std::find(valid, valid + rows, true) - valid;
  if (first < rows)
    for (int64_t c = 0; c < channels; c += lanes)
      store(origin.data() + c, from_row<T>(x + first * channels, c, channels));
  const T* o = origin.data();
  sum_rows(rows, 2 * width + 1, totals.data(), threads,
           [=](int64_t from, int64_t to, double* total) {
             Buffer<T> sums(2 * width);
             T *sum = sums.data(), *square = sum + width;
             for (int64_t start = from; start < to; start += BLOCK) {
               std::fill(sums.begin(), sums.end(), T(0));
               for (int64_t r = start; r < std::min(to, start + BLOCK); ++r) {
                 if (!valid[r]) continue;
                 total[2 * width] += 1;
                 for (int64_t c = 0; c < channels; c += lanes) {
                   const auto d = from_row<T>(x + r * channels, c, channels) - load(o + c);
                   store(sum + c, load(sum + c) + d);
                   store(square + c, load(square + c) + d * d);
                 }
               }
               for (int64_t c = 0; c < 2 * width; ++c) total[c] += sum[c];
             }
           });
  const double count = std::max(1.0, totals[2 * width]);
  for (int64_t c = 0; c < channels; ++c) {
    const double d = totals[c] / count;
    mean[c] = o[c] + d;
    variance[c] = std::max(0.0, totals[width + c] / count - d * d);
  }
}

template <class X, class T>
void forward(const X* x, const bool* valid, const T* weight, const T* bias, X* y, T* mean,
             T* variance, int64_t rows, int64_t channels, double eps, int threads) {
  std::vector<double> mu(channels), sigma(channels);
  statistics<X, T>(x, valid, rows, channels, mu.data(), sigma.data(), threads);
  Buffer<T> scale(padded<T>(channels)), shift(padded<T>(channels));
  for (int64_t c = 0; c < channels; ++c) {
    const double s = weight[c] / std::sqrt(sigma[c] + eps);
    mean[c] = mu[c], variance[c] = sigma[c];
    scale[c] = s, shift[c] = bias[c] - mu[c] * s;
  }
  const T *s = scale.data(), *b = shift.data();
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t r = 0; r < rows; ++r) {
    const X* from = x + r * channels;
    X* to = y + r * channels;
    if (!valid[r]) {
      std::memset(to, 0, sizeof(X) * channels);
      continue;
    }
    for (int64_t c = 0; c < channels; c += Vector<T>::lanes)
      to_row<T>(from_row<T>(from, c, channels) * load(s + c) + load(b + c), to, c, channels);
  }
}

// With x̂ = (x − μ) / σ: dbias = Σ dy, dweight = Σ dy x̂, dx = weight / σ (dy − (dbias + x̂ dweight) /
// n).
template <class X, class T>
void backward(const X* dy, const X* x, const bool* valid, const T* weight, const T* mean,
              const T* variance, X* dx, T* dweight, T* dbias, int64_t rows, int64_t channels,
              double eps, int threads) {
  constexpr int64_t lanes = Vector<T>::lanes;
  const int64_t width = padded<T>(channels);
  std::vector<double> totals(2 * width + 1);
  Buffer<T> centre(width);
  std::copy(mean, mean + channels, centre.begin());
  const T* mu = centre.data();
  sum_rows(rows, 2 * width + 1, totals.data(), threads,
           [=](int64_t from, int64_t to, double* total) {
             Buffer<T> sums(2 * width);
             T *sum = sums.data(), *product = sum + width;
             for (int64_t start = from; start < to; start += BLOCK) {
               std::fill(sums.begin(), sums.end(), T(0));
               for (int64_t r = start; r < std::min(to, start + BLOCK); ++r) {
                 if (!valid[r]) continue;
                 total[2 * width] += 1;
                 for (int64_t c = 0; c < channels; c += lanes) {
                   const auto g = from_row<T>(dy + r * channels, c, channels);
                   const auto d = from_row<T>(x + r * channels, c, channels) - load(mu + c);
                   store(sum + c, load(sum + c) + g);
                   store(product + c, load(product + c) + g * d);
                 }
               }
               for (int64_t c = 0; c < 2 * width; ++c) total[c] += sum[c];
             }
           });
  const double count = std::max(1.0, totals[2 * width]);
  // dx = a dy + b x + c, for each channel
  Buffer<T> a(width), b(width), constant(width);
  for (int64_t c = 0; c < channels; ++c) {
    const double rstd = 1 / std::sqrt(variance[c] + eps), through = totals[width + c] * rstd;
    dweight[c] = through, dbias[c] = totals[c];
    a[c] = weight[c] * rstd;
    b[c] = -weight[c] * rstd * rstd * through / count;
    constant[c] = -weight[c] * rstd * totals[c] / count - double(b[c]) * mean[c];
  }
  const T *pa = a.data(), *pb = b.data(), *pc = constant.data();
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t r = 0; r < rows; ++r) {
    const X *row = x + r * channels, *d = dy + r * channels;
    X* to = dx + r * channels;
    if (!valid[r]) {
      std::memset(to, 0, sizeof(X) * channels);
      continue;
    }
    for (int64_t c = 0; c < channels; c += lanes)
      to_row<T>(load(pa + c) * from_row<T>(d, c, channels) +
                    load(pb + c) * from_row<T>(row, c, channels) + load(pc + c),
                to, c, channels);
  }
}

}  // namespace

// x, y, dy and dx [rows, channels], valid [rows], the others [channels]; eps is a double's address.
#define BATCH_NORM(NAME, X, T)                                                                     \
  extern "C" void batch_norm_##NAME(const X* x, const bool* valid, const T* weight, const T* bias, \
                                    X* y, T* mean, T* variance, const double* eps, int64_t rows,   \
                                    int64_t channels, int threads) {                               \
    forward(x, valid, weight, bias, y, mean, variance, rows, channels, *eps, threads);             \
  }                                                                                                \
  extern "C" void batch_norm_backward_##NAME(const X* dy, const X* x, const bool* valid,           \
                                             const T* weight, const T* mean, const T* variance,    \
                                             X* dx, T* dweight, T* dbias, const double* eps,       \
                                             int64_t rows, int64_t channels, int threads) {        \
    backward(dy, x, valid, weight, mean, variance, dx, dweight, dbias, rows, channels, *eps,       \
             threads);                                                                             \
  }

BATCH_NORM(f32, float, float)
BATCH_NORM(f64, double, double)
BATCH_NORM(bf16, bfloat16, float)
