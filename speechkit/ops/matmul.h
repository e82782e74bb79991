// Y = X W for small and large numbers of rows, with W packed once: float32, bfloat16 and int8.
//
// W [depth, columns] is cut into panels of PANEL columns, each stored row by row. One pass over a
// panel computes ROWS rows of X, whose sums stay in registers. For bfloat16, 32 bits hold two rows
// of W, and for int8 four rows, as the processor's dot products expect; `depth` counts such groups.
// Sums are float32 (int32 for int8). Each row is summed in the same order, so its result does not
// depend on how many rows are computed together.

#pragma once

#include <algorithm>
#include <cmath>

#include "activation.h"
#include "simd.h"
#if defined(__AVX512BF16__) || defined(__AVX512VNNI__)
#include <immintrin.h>
#endif

namespace speechkit {

constexpr int ROWS = 6;
// as many sums as fit into the registers
constexpr int PANEL_REGISTERS = REGISTER_BYTES == 32 ? 2 : 4;
constexpr int64_t PANEL = PANEL_REGISTERS * LANES;
// columns are padded to a multiple of this on every processor
constexpr int64_t COLUMNS = 16;

inline int64_t round_up(int64_t count, int64_t to) { return (count + to - 1) / to * to; }
inline int64_t padded(int64_t columns) { return round_up(columns, COLUMNS); }

inline Integers bits_of(const void* from) {
  Integers v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

inline float float_of(bfloat16 x) {
  const uint32_t bits = uint32_t(x.bits) << 16;
  float y;
  std::memcpy(&y, &bits, sizeof y);
  return y;
}

struct Float32 {
  typedef float X;
  typedef float W;
  typedef Register Sum;
  static constexpr int64_t group = 1;
  static Register weights(const W* w) { return load(w); }
  static Sum add(Sum sum, const X* x, Register w) { return sum + *x * w; }
};

struct Bfloat16 {
  typedef bfloat16 X;
  typedef bfloat16 W;
  typedef Register Sum;
  static constexpr int64_t group = 2;
  static Integers weights(const W* w) { return bits_of(w); }
  static Sum add(Sum sum, const X* x, Integers w) {
#if defined(__AVX512BF16__)
    int pair;
    std::memcpy(&pair, x, sizeof pair);
    return (Register)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)w);
#else
    const float first = float_of(x[0]), second = float_of(x[1]);
    return sum + first * (Register)(w << 16) + second * (Register)(w & int32_t(0xffff0000));
#endif
  }
};

struct Int8 {
  typedef uint8_t X;
  typedef int8_t W;
  typedef Integers Sum;
  static constexpr int64_t group = 4;
  static Integers weights(const W* w) { return bits_of(w); }
  static Sum add(Sum sum, const X* x, Integers w) {
#if defined(__AVX512VNNI__)
    int four;
    std::memcpy(&four, x, sizeof four);
    return (Integers)_mm512_dpbusd_epi32((__m512i)sum, _mm512_set1_epi32(four), (__m512i)w);
#else
    for (int j = 0; j < 4; ++j) sum += int32_t(x[j]) * ((w << (24 - 8 * j)) >> 24);
    return sum;
#endif
  }
};

// For results whose memory is not prefetched.
struct NoFetch {
  void operator()(int64_t, int64_t) const {}
};

// The sums of R rows of X by one panel of V registers.
template <class K, int R, int V, class Put, class Fetch>
inline void multiply_tile(const typename K::X* x, int64_t x_step, int64_t x_next, int64_t depth,
                          const typename K::W* w, int64_t row, int64_t column, Put put,
                          Fetch fetch) {
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) fetch(row + r, column + v * LANES);
  // unrolled, since a compiler keeps an array in registers only if all its indices are constants
  typename K::Sum sum[R][V], sums[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[r][v] = typename K::Sum{};
  for (int64_t i = 0; i < depth; ++i) {
    decltype(K::weights(w)) panel[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) panel[v] = K::weights(w + (i * V + v) * K::group * LANES);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v)
        sum[r][v] = K::add(sum[r][v], x + r * x_step + i * x_next, panel[v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sums[r][v] = sum[r][v];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) put(row + r, column + v * LANES, sums[r][v]);
}

template <class K, int V, class Put, class Fetch>
void multiply_panel(const typename K::X* x, int64_t x_step, int64_t x_next, int64_t rows,
                    int64_t depth, const typename K::W* w, int64_t column, Put put, Fetch fetch) {
  int64_t r = 0;
  for (; r + ROWS <= rows; r += ROWS)
    multiply_tile<K, ROWS, V>(x + r * x_step, x_step, x_next, depth, w, r, column, put, fetch);
  x += r * x_step;
  switch (rows - r) {
    case 1: multiply_tile<K, 1, V>(x, x_step, x_next, depth, w, r, column, put, fetch); break;
    case 2: multiply_tile<K, 2, V>(x, x_step, x_next, depth, w, r, column, put, fetch); break;
    case 3: multiply_tile<K, 3, V>(x, x_step, x_next, depth, w, r, column, put, fetch); break;
    case 4: multiply_tile<K, 4, V>(x, x_step, x_next, depth, w, r, column, put, fetch); break;
    case 5: multiply_tile<K, 5, V>(x, x_step, x_next, depth, w, r, column, put, fetch); break;
  }
}

// Calls put(row, column, sums of LANES columns) for all columns and all rows of X, `x_step` apart.
// Calls fetch(row, column) long before that, which may prefetch the memory of the result. The
// groups of a row are `x_next` apart.
template <class K, class Put, class Fetch = NoFetch>
void multiply(const typename K::X* x, int64_t x_step, int64_t rows, int64_t depth,
              const typename K::W* w, int64_t columns, Put put, Fetch fetch = {},
              int64_t x_next = K::group) {
  const int64_t width = padded(columns);
  for (int64_t c = 0; c < width; c += PANEL) {
    const typename K::W* panel = w + c * depth * K::group;
    switch (std::min(PANEL, width - c) / LANES) {
      case 1: multiply_panel<K, 1>(x, x_step, x_next, rows, depth, panel, c, put, fetch); break;
      case 2: multiply_panel<K, 2>(x, x_step, x_next, rows, depth, panel, c, put, fetch); break;
      case 3: multiply_panel<K, 3>(x, x_step, x_next, rows, depth, panel, c, put, fetch); break;
      case 4: multiply_panel<K, 4>(x, x_step, x_next, rows, depth, panel, c, put, fetch); break;
    }
  }
}

// W [depth · group, columns], element (i, c) at i · row_step + c · column_step, packed; the columns
// and the last group are padded with zeros.
template <class K, class From>
void pack(const From* from, int64_t row_step, int64_t column_step, int64_t rows, int64_t columns,
          typename K::W* to) {
  const int64_t depth = (rows + K::group - 1) / K::group, width = padded(columns);
  // the rows at a time, so that the read and the written memory stay in the L1 cache
  constexpr int64_t SOME = 16;
  for (int64_t c = 0; c < width; c += PANEL) {
    const int64_t wide = std::min(PANEL, width - c);
    for (int64_t start = 0; start < depth; start += SOME)
      for (int64_t n = 0; n < wide; ++n)
        for (int64_t i = start; i < std::min(depth, start + SOME); ++i)
          for (int64_t j = 0; j < K::group; ++j) {
            const int64_t row = i * K::group + j;
            const bool inside = row < rows && c + n < columns;
            const From* at = from + row * row_step + (c + n) * column_step;
            to[(c * depth + i * wide + n) * K::group + j] = inside ? *at : typename K::W();
          }
  }
}

// A row of floats as unsigned bytes around 128, zero padded to whole groups; returns the step.
inline float quantize(const float* x, int64_t count, uint8_t* to) {
  float top = 0;
  for (int64_t i = 0; i < count; ++i) top = std::max(top, std::fabs(x[i]));
  const float step = top > 0 ? top / 127 : 1, scale = 1 / step;
  for (int64_t i = 0; i < count; ++i) to[i] = uint8_t(int32_t(std::nearbyint(x[i] * scale)) + 128);
  for (int64_t i = count; i < round_up(count, Int8::group); ++i) to[i] = 128;
  return step;
}

inline void halve(const float* x, int64_t count, bfloat16* to) {
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES) narrow(load(x + i), to + i);
  if (i < count) narrow_some(widen_some<float>(x + i, count - i), to + i, count - i);
  for (i = count; i < round_up(count, Bfloat16::group); ++i) to[i] = bfloat16{0};
}

// The types of a packed matrix, by the callers' numbers.
enum Precision : int64_t { FLOAT32, BFLOAT16, INT8 };

// A packed matrix W, and the numbers that convert its sums into results: y = sum · scale + bias.
// int8 sums are of x + 128 and of W / scale; `offset` subtracts 128 ΣW / scale from them.
struct Matrix {
  int64_t precision, rows, columns;
  const void* packed;
  const float *bias, *scale, *offset;

  int64_t depth() const {
    const int64_t group = precision == INT8 ? 4 : precision == BFLOAT16 ? 2 : 1;
    return (rows + group - 1) / group;
  }
};

// Rows of floats, converted to the type of the matrix.
struct Operand {
  Buffer<bfloat16> half;
  Buffer<uint8_t> bytes;
  Buffer<float> steps;
};

// Calls put(row, column, LANES results) of Y = X W + bias for a matrix and X in bfloat16.
template <class Put, class Fetch = NoFetch>
void multiply(const Matrix& w, const bfloat16* x, int64_t x_step, int64_t rows, Put put,
              Fetch fetch = {}) {
  multiply<Bfloat16>(
      x, x_step, rows, w.depth(), static_cast<const bfloat16*>(w.packed), w.columns,
      [=](int64_t r, int64_t c, Register sum) { put(r, c, sum + load(w.bias + c)); }, fetch);
}

// The same for any matrix and X in float32; `work` is reused by later calls.
template <class Put, class Fetch = NoFetch>
void multiply(const Matrix& w, const float* x, int64_t x_step, int64_t rows, Operand& work,
              Put put, Fetch fetch = {}) {
  switch (w.precision) {
    case FLOAT32:
      multiply<Float32>(
          x, x_step, rows, w.rows, static_cast<const float*>(w.packed), w.columns,
          [=](int64_t r, int64_t c, Register sum) { put(r, c, sum + load(w.bias + c)); }, fetch);
      break;
    case BFLOAT16: {
      const int64_t step = round_up(w.rows, Bfloat16::group);
      grow(work.half, rows * step);
      for (int64_t r = 0; r < rows; ++r) halve(x + r * x_step, w.rows, work.half.data() + r * step);
      multiply(w, work.half.data(), step, rows, put, fetch);
      break;
    }
    case INT8: {
      const int64_t step = round_up(w.rows, Int8::group);
      grow(work.bytes, rows * step);
      grow(work.steps, rows);
      for (int64_t r = 0; r < rows; ++r)
        work.steps[r] = quantize(x + r * x_step, w.rows, work.bytes.data() + r * step);
      const float* steps = work.steps.data();
      multiply<Int8>(
          work.bytes.data(), step, rows, w.depth(), static_cast<const int8_t*>(w.packed), w.columns,
          [=](int64_t r, int64_t c, Integers sum) {
            const Register whole = __builtin_convertvector(sum, Register);
            const Register exact = (whole - load(w.offset + c)) * load(w.scale + c);
            put(r, c, exact * steps[r] + load(w.bias + c));
          },
          fetch);
      break;
    }
  }
}

inline void pack_half(const float* w, int64_t c_in, int64_t c_out, void* packed) {
  Buffer<bfloat16> half(round_up(c_in * c_out, Bfloat16::group));
  halve(w, c_in * c_out, half.data());
  pack<Bfloat16>(half.data(), 1, c_in, c_in, c_out, static_cast<bfloat16*>(packed));
}

inline void pack_int8(const float* w, int64_t c_in, int64_t c_out, void* packed, float* scale,
               float* offset) {
  Buffer<int8_t> small(c_in * c_out);
  for (int64_t c = 0; c < c_out; ++c) {
    const float* row = w + c * c_in;
    float top = 0;
    for (int64_t i = 0; i < c_in; ++i) top = std::max(top, std::fabs(row[i]));
    scale[c] = top > 0 ? top / 127 : 1;
    float sum = 0;
    for (int64_t i = 0; i < c_in; ++i) {
      small[c * c_in + i] = int8_t(std::nearbyint(row[i] / scale[c]));
      sum += small[c * c_in + i];
    }
    offset[c] = 128 * sum;
  }
  pack<Int8>(small.data(), 1, c_in, c_in, c_out, static_cast<int8_t*>(packed));
}

// Packs W [c_out, c_in] for a Precision as matrices read it; for int8 it also writes
// scale and offset [c_out].
inline void pack_for(int64_t precision, const float* w, int64_t c_in, int64_t c_out, void* packed,
                     float* scale, float* offset) {
  switch (precision) {
    case FLOAT32: pack<Float32>(w, 1, c_in, c_in, c_out, static_cast<float*>(packed)); break;
    case BFLOAT16: pack_half(w, c_in, c_out, packed); break;
    case INT8: pack_int8(w, c_in, c_out, packed, scale, offset); break;
  }
}

}  // namespace speechkit
