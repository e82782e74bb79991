// Registers of this processor, aligned memory, and bfloat16, for all native ops.

#pragma once

#include <cstdint>
#include <cstring>
#include <new>
#include <vector>
#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace speechkit {

#if defined(__AVX512F__)
constexpr int64_t REGISTER_BYTES = 64;
#elif defined(__AVX__)
constexpr int64_t REGISTER_BYTES = 32;
#else
constexpr int64_t REGISTER_BYTES = 16;
#endif

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

template <class T>
inline void store(T* to, typename Vector<T>::type v) {
  std::memcpy(to, &v, sizeof v);
}

// Memory that starts on a cache line; otherwise a register's load would touch two lines.
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

// Makes room for `count` numbers in a reused buffer; they are not cleared.
template <class T>
inline void grow(Buffer<T>& buffer, int64_t count) {
  if (int64_t(buffer.size()) < count) buffer.resize(count);
}

// The upper half of a float, as torch.bfloat16 stores it.
struct bfloat16 {
  uint16_t bits;
};

// A register of numbers from memory of the same type, or from bfloat16. Registers are explicit,
// since the compiler does not vectorise so short a loop.
inline Vector<float>::type widen(const float* from) { return load(from); }
inline Vector<double>::type widen(const double* from) { return load(from); }
inline Vector<float>::type widen(const bfloat16* from) {
  constexpr int64_t lanes = Vector<float>::lanes;
  typedef uint16_t Halves __attribute__((vector_size(2 * lanes)));
  typedef uint32_t Words __attribute__((vector_size(4 * lanes)));
  Halves halves;
  std::memcpy(&halves, from, sizeof halves);
  return (Vector<float>::type)(__builtin_convertvector(halves, Words) << 16);
}

// The inverse: bfloat16 rounds to nearest, ties to even; NaN gives NaN.
inline void narrow(Vector<float>::type x, float* to) { store(to, x); }
inline void narrow(Vector<double>::type x, double* to) { store(to, x); }
inline void narrow(Vector<float>::type x, bfloat16* to) {
#if defined(__AVX512BF16__)
  // the same, except that numbers below 2^-126 become zero
  const __m256bh halves = _mm512_cvtneps_pbh((__m512)x);
  std::memcpy(to, &halves, sizeof halves);
#else
  constexpr int64_t lanes = Vector<float>::lanes;
  typedef uint16_t Halves __attribute__((vector_size(2 * lanes)));
  typedef uint32_t Words __attribute__((vector_size(4 * lanes)));
  const Words bits = (Words)x, rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Words nan = Words{} + 0x7fc0;
  const Halves halves = __builtin_convertvector(x == x ? rounded : nan, Halves);
  std::memcpy(to, &halves, sizeof halves);
#endif
}

// Loads `width` numbers into a register, with zeros after them; stores the first `width` numbers.
template <class T, class X>
inline typename Vector<T>::type widen_some(const X* from, int64_t width) {
  X some[Vector<T>::lanes] = {};
  std::memcpy(some, from, sizeof(X) * width);
  return widen(some);
}

template <class X, class V>
inline void narrow_some(V value, X* to, int64_t width) {
  X all[sizeof(V) / (sizeof(X) < 4 ? 4 : sizeof(X))];
  narrow(value, all);
  std::memcpy(to, all, sizeof(X) * width);
}

}  // namespace speechkit
