// Batch normalisation over the valid rows of a matrix in two passes over memory, and its gradients
// in two more. The same passes compute the residual and the ReLU after it.

#include <algorithm>
#include <cmath>

#include "simd.h"

using namespace speechkit;

namespace {

// rows that are summed in the type of the data before they are added to the totals
constexpr int64_t BLOCK = 32;

template <class T>
int64_t padded(int64_t channels) {
  constexpr int64_t lanes = Vector<T>::lanes;
  return (channels + lanes - 1) / lanes * lanes;
}

// Load and store of a register of a row, from channel c on.
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

// Runs part(first row, last row, totals) on a share of the rows for each thread. The sums of
// `count` totals depend on the number of threads only, not on the order in which they end.
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
  // deviations are from the first valid row, which avoids cancellation of their squares
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

// norm(x) = scale x + shift for each channel. Forward and backward compute the same bits, so that
// the ReLU is open in both or in neither.
template <class T>
struct Affine {
  Buffer<T> scale, shift;

  Affine(const T* weight, const T* bias, const T* mean, const T* variance, int64_t channels,
         double eps)
      : scale(padded<T>(channels)), shift(padded<T>(channels)) {
    for (int64_t c = 0; c < channels; ++c) {
      const double s = weight[c] / std::sqrt(variance[c] + eps);
      scale[c] = s, shift[c] = bias[c] - mean[c] * s;
    }
  }

  typename Vector<T>::type operator()(typename Vector<T>::type x, int64_t c) const {
    return x * load(scale.data() + c) + load(shift.data() + c);
  }
};

// y = norm(x) + residual, which may be null, and max(that, 0) where `relu`.
template <class X, class T>
void forward(const X* x, const bool* valid, const T* weight, const T* bias, const X* residual, X* y,
             T* mean, T* variance, int64_t rows, int64_t channels, bool relu, double eps,
             int threads) {
  std::vector<double> mu(channels), sigma(channels);
  statistics<X, T>(x, valid, rows, channels, mu.data(), sigma.data(), threads);
  std::copy(mu.begin(), mu.end(), mean);
  std::copy(sigma.begin(), sigma.end(), variance);
  const Affine<T> norm(weight, bias, mean, variance, channels, eps);
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t r = 0; r < rows; ++r) {
    const X* from = x + r * channels;
    X* to = y + r * channels;
    if (!valid[r]) {
      std::memset(to, 0, sizeof(X) * channels);
      continue;
    }
    for (int64_t c = 0; c < channels; c += Vector<T>::lanes) {
      auto value = norm(from_row<T>(from, c, channels), c);
      if (residual) value += from_row<T>(residual + r * channels, c, channels);
      if (relu) value = value < 0 ? typename Vector<T>::type{} : value;
      to_row<T>(value, to, c, channels);
    }
  }
}

// The gradient through a ReLU with the output max(y, 0).
template <class V>
inline V through(V dy, V y) {
  return y <= 0 ? V{} : dy;
}

// With x̂ = (x − μ) / σ and g the gradient dy through the ReLU: dresidual = g, dbias = Σ g,
// dweight = Σ g x̂, dx = weight / σ (g − (dbias + x̂ dweight) / n). With a residual, the ReLU is
// open if y is positive. Without one, it is open if norm(x) is; y and dresidual are null.
template <class X, class T>
void backward(const X* dy, const X* x, const X* y, const bool* valid, const T* weight,
              const T* bias, const T* mean, const T* variance, X* dx, X* dresidual, T* dweight,
              T* dbias, int64_t rows, int64_t channels, bool relu, double eps, int threads) {
  constexpr int64_t lanes = Vector<T>::lanes;
  const int64_t width = padded<T>(channels);
  std::vector<double> totals(2 * width + 1);
  Buffer<T> centre(width);
  std::copy(mean, mean + channels, centre.begin());
  const T* mu = centre.data();
  const Affine<T> norm(weight, bias, mean, variance, channels, eps);
  sum_rows(rows, 2 * width + 1, totals.data(), threads,
           [=, &norm](int64_t from, int64_t to, double* total) {
             Buffer<T> sums(2 * width);
             T *sum = sums.data(), *product = sum + width;
             for (int64_t start = from; start < to; start += BLOCK) {
               std::fill(sums.begin(), sums.end(), T(0));
               for (int64_t r = start; r < std::min(to, start + BLOCK); ++r) {
                 const int64_t at = r * channels;
                 if (!valid[r]) {
                   if (dresidual) std::memset(dresidual + at, 0, sizeof(X) * channels);
                   continue;
                 }
                 total[2 * width] += 1;
                 for (int64_t c = 0; c < channels; c += lanes) {
                   const auto value = from_row<T>(x + at, c, channels);
                   auto g = from_row<T>(dy + at, c, channels);
                   if (relu) g = through(g, y ? from_row<T>(y + at, c, channels) : norm(value, c));
                   if (dresidual) to_row<T>(g, dresidual + at, c, channels);
                   const auto d = value - load(mu + c);
                   store(sum + c, load(sum + c) + g);
                   store(product + c, load(product + c) + g * d);
                 }
               }
               for (int64_t c = 0; c < 2 * width; ++c) total[c] += sum[c];
             }
           });
  // the gradient through the ReLU is already stored
  if (dresidual) dy = dresidual, relu = false;
  const double count = std::max(1.0, totals[2 * width]);
  // dx = a g + b x + c, for each channel
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
    const int64_t at = r * channels;
    X* to = dx + at;
    if (!valid[r]) {
      std::memset(to, 0, sizeof(X) * channels);
      continue;
    }
    for (int64_t c = 0; c < channels; c += lanes) {
      const auto value = from_row<T>(x + at, c, channels);
      auto g = from_row<T>(dy + at, c, channels);
      if (relu) g = through(g, norm(value, c));
      to_row<T>(load(pa + c) * g + load(pb + c) * value + load(pc + c), to, c, channels);
    }
  }
}

}  // namespace

// x, residual, y, dy, dx and dresidual [rows, channels], valid [rows], the others [channels]; eps is
// a double's address.
#define BATCH_NORM(NAME, X, T)                                                                     \
  extern "C" void batch_norm_##NAME(const X* x, const bool* valid, const T* weight, const T* bias, \
                                    const X* residual, X* y, T* mean, T* variance,                 \
                                    const double* eps, int64_t rows, int64_t channels,             \
                                    int64_t relu, int threads) {                                   \
    forward(x, valid, weight, bias, residual, y, mean, variance, rows, channels, relu != 0, *eps,  \
            threads);                                                                              \
  }                                                                                                \
  extern "C" void batch_norm_backward_##NAME(                                                      \
      const X* dy, const X* x, const X* y, const bool* valid, const T* weight, const T* bias,      \
      const T* mean, const T* variance, X* dx, X* dresidual, T* dweight, T* dbias,                 \
      const double* eps, int64_t rows, int64_t channels, int64_t relu, int threads) {              \
    backward(dy, x, y, valid, weight, bias, mean, variance, dx, dresidual, dweight, dbias, rows,   \
             channels, relu != 0, *eps, threads);                                                  \
  }

BATCH_NORM(f32, float, float)
BATCH_NORM(f64, double, double)
BATCH_NORM(bf16, bfloat16, float)
