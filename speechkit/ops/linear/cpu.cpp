// Y = X W (+ b) in float32; W has any strides and is packed first.

#include "matmul.h"

using namespace speechkit;

// x [rows, depth], element (i, c) of W at i · row_step + c · column_step, bias [columns] or null,
// y [rows, columns].
extern "C" void linear(const float* x, const float* w, const float* bias, float* y, int64_t rows,
                       int64_t depth, int64_t columns, int64_t row_step, int64_t column_step,
                       int threads) {
  constexpr int64_t BLOCK = 96;
  Buffer<float> packed(depth * padded(columns)), b(padded(columns));
  pack<Float32>(w, row_step, column_step, depth, columns, packed.data());
  if (bias) std::copy(bias, bias + columns, b.begin());
  const int64_t blocks = (rows + BLOCK - 1) / BLOCK;
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t first = block * BLOCK;
    float* out = y + first * columns;
    multiply<Float32>(x + first * depth, depth, std::min(BLOCK, rows - first), depth, packed.data(),
                      columns, [=, &b](int64_t r, int64_t c, Register sum) {
                        const Register value = sum + load(b.data() + c);
                        if (columns - c >= LANES) {
                          store(out + r * columns + c, value);
                        } else if (columns > c) {
                          // shorter registers than of AVX-512 also hold nothing but padding
                          std::memcpy(out + r * columns + c, &value, sizeof(float) * (columns - c));
                        }
                      });
  }
}
