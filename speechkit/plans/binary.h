// BINARY: y = factor · W sign(x + shift), where all of W are 1 or −1 and sign(0) = 1.
//
// 32 signs are the bits of a word, set for 1. A sum of n products is n − 2 · (the number of bits in
// which the words differ), a whole number, so y does not depend on the order of the sum.

#pragma once

#include "loader.h"
#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace speechkit {

// The signs in a word, and in a float of a file, whose other bits are 0 so that it is finite.
constexpr int64_t WORD = 32, STORED = 30;

// The number of set bits in each lane.
inline Integers set_bits(Integers lanes) {
#if defined(__AVX512VPOPCNTDQ__)
  return (Integers)_mm512_popcnt_epi32((__m512i)lanes);
#else
  typedef uint32_t Words __attribute__((vector_size(REGISTER_BYTES)));
  Words v = (Words)lanes;
  // in pairs, in fours, in bytes, and in all of the lane
  v -= (v >> 1) & 0x55555555u;
  v = (v & 0x33333333u) + ((v >> 2) & 0x33333333u);
  v = (v + (v >> 4)) & 0x0f0f0f0fu;
  v += v >> 8;
  v += v >> 16;
  return (Integers)(v & 0x3fu);
#endif
}

// Bit i is set if x[i] ≥ 0, for the lanes of a register.
inline uint32_t signs(Register x) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask((__m512)x, _mm512_setzero_ps(), _CMP_GE_OQ);
#elif defined(__AVX__)
  return uint32_t(_mm256_movemask_ps(_mm256_cmp_ps((__m256)x, _mm256_setzero_ps(), _CMP_GE_OQ)));
#else
  uint32_t bits = 0;
  for (int64_t j = 0; j < LANES; ++j) bits |= uint32_t(x[j] >= 0) << j;
  return bits;
#endif
}

// A product of `multiply` whose sums are numbers of differing bits.
struct Signs {
  typedef int32_t X;
  typedef int32_t W;
  typedef Integers Sum;
  static constexpr int64_t group = 1;
  static Integers weights(const W* w) { return bits_of(w); }
  static Sum add(Sum sum, const X* x, Integers w) { return sum + set_bits(w ^ *x); }
};

// weights: the signs of W [channels, channels of the input]; bias: shift; numbers: factor
inline void prepare_binary(Loader& loader, Instruction& op) {
  expect(op.width_in > 1, "it takes channels, not sound");
  expect(op.rows == op.rows_in, "its rows differ from its input's");
  const int64_t depth = (op.channels_in + WORD - 1) / WORD, wide = padded(op.channels);
  const int64_t count = product(op.channels, op.channels_in);
  const float* stored = loader.numbers(op.weights, (count + STORED - 1) / STORED);
  Buffer<int32_t> words(product(op.channels, depth));
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, stored + i / STORED, sizeof bits);
    const int64_t row = i / op.channels_in, column = i % op.channels_in;
    words[row * depth + column / WORD] |= int32_t((bits >> i % STORED & 1) << column % WORD);
  }
  void* packed = loader.hold(product(wide, depth));
  pack<Signs>(words.data(), 1, depth, depth, op.channels, static_cast<int32_t*>(packed));
  op.packed = packed;
  op.shift = loader.table(op.bias, 1, op.channels_in, op.width_in);
  op.scale = loader.table(op.numbers, 1, op.channels, wide);
}

inline void run_binary(const Instruction& op, const Memory& m) {
  static thread_local Buffer<int32_t> words;
  const int64_t depth = (op.channels_in + WORD - 1) / WORD, rest = op.channels_in % WORD;
  // the bits after the last channel are 0 in W too, so they do not differ
  const uint32_t last = rest ? (uint32_t(1) << rest) - 1 : ~uint32_t(0);
  grow(words, op.rows * depth);
  for (int64_t r = 0; r < op.rows; ++r)
    for (int64_t i = 0; i < depth; ++i) {
      const int64_t from = i * WORD, end = std::min(from + WORD, op.width_in);
      const float* x = m.in + r * op.width_in;
      uint32_t bits = 0;
      for (int64_t c = from; c < end; c += LANES)
        bits |= signs(load(x + c) + load(op.shift + c)) << (c - from);
      words[r * depth + i] = int32_t(i + 1 < depth ? bits : bits & last);
    }
  const int32_t channels = int32_t(op.channels_in);
  multiply<Signs>(words.data(), depth, op.rows, depth, static_cast<const int32_t*>(op.packed),
                  op.channels, [=](int64_t r, int64_t c, Integers differing) {
                    const Integers sum = channels - 2 * differing;
                    const Register y = __builtin_convertvector(sum, Register) * load(op.scale + c);
                    store(m.out + r * op.width + c, y);
                  });
  mark_alike(op, m);
}

}  // namespace speechkit
