// Y = X W (+ b) in float32, where W has any strides and is packed first, and the gradient of W.

#include "matmul.h"

using namespace speechkit;

// x [rows, depth], element (i, c) of W at i · row_step + c · column_step, bias [columns] or null,
// y [rows, columns].
extern "C" void linear(const float* x, const float* w, const float* bias, float* y, int64_t rows,
                       int64_t depth, int64_t columns, int64_t row_step, int64_t column_step,
                       int threads) {
  constexpr int64_t BLOCK = 168;
  Buffer<float> packed(depth * padded(columns)), b(padded(columns));
  pack<Float32>(w, row_step, column_step, depth, columns, packed.data());
  if (bias) std::copy(bias, bias + columns, b.begin());
  const int64_t blocks = (rows + BLOCK - 1) / BLOCK;
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t first = block * BLOCK;
    float* out = y + first * columns;
    const auto put = [=, &b](int64_t r, int64_t c, Register sum) {
      const Register value = sum + load(b.data() + c);
      if (columns - c >= LANES) {
        store(out + r * columns + c, value);
      } else if (columns > c) {
        // where registers are shorter than those of AVX-512, some hold only padding
        narrow_some(value, out + r * columns + c, columns - c);
      }
    };
    const auto fetch = [=](int64_t r, int64_t c) {
      if (c < columns) __builtin_prefetch(out + r * columns + c, 1);
    };
    multiply<Float32>(x + first * depth, depth, std::min(BLOCK, rows - first), depth, packed.data(),
                      columns, put, fetch);
  }
}

// The gradient of W [columns, depth]: dW = dYᵀ X, for x [rows, depth] and dy [rows, columns].
extern "C" void linear_weight(const float* x, const float* dy, float* dw, int64_t rows,
                              int64_t depth, int64_t columns, int threads) {
  // BLOCK rows of a panel of X stay in the L2 cache while tiles of ROWS columns of dY are read; a
  // PITCH that is no multiple of 4 KiB spreads the tiles over the L1 cache
  constexpr int64_t BLOCK = 1024, PITCH = BLOCK * ROWS + LANES;
  const int64_t tiles = (columns + ROWS - 1) / ROWS;
  Buffer<float> turned(tiles * PITCH);
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    Buffer<float> panel(BLOCK * PANEL);
    for (int64_t first = 0; first < rows; first += BLOCK) {
      const int64_t count = std::min(BLOCK, rows - first);
#pragma omp for
      for (int64_t t = 0; t < count; ++t) {
        const float* from = dy + (first + t) * columns;
        float* to = turned.data() + t * ROWS;
        int64_t c = 0;
        for (; c + ROWS <= columns; c += ROWS, to += PITCH)
          std::memcpy(to, from + c, sizeof(float) * ROWS);
        std::memcpy(to, from + c, sizeof(float) * (columns - c));
      }
#pragma omp for
      for (int64_t c = 0; c < depth; c += PANEL) {
        const int64_t width = std::min(PANEL, depth - c), wide = padded(width);
        for (int64_t t = 0; t < count; ++t) {
          const float* from = x + (first + t) * depth + c;
          int64_t n = 0;
          for (; n + LANES <= width; n += LANES) store(panel.data() + t * wide + n, load(from + n));
          if (n < width) store(panel.data() + t * wide + n, widen_some<float>(from + n, width - n));
        }
        for (int64_t tile = 0; tile < tiles; ++tile) {
          float* out = dw + tile * ROWS * depth + c;
          const auto put = [=](int64_t r, int64_t n, Register sum) {
            float* to = out + r * depth + n;
            const int64_t real = std::min(LANES, width - n);
            if (real == LANES) {
              store(to, first ? load(to) + sum : sum);
            } else if (real > 0) {
              narrow_some(first ? widen_some<float>(to, real) + sum : sum, to, real);
            }
          };
          const auto fetch = [=](int64_t r, int64_t n) {
            if (n < width) __builtin_prefetch(out + r * depth + n, 1);
          };
          multiply<Float32>(turned.data() + tile * PITCH, 1, std::min<int64_t>(ROWS, columns - tile * ROWS),
                            count, panel.data(), wide, put, fetch, ROWS);
        }
      }
    }
  }
}
