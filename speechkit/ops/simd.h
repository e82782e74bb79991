// Registers of this processor, aligned memory, and bfloat16: what the native ops share.

#pragma once

#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

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

// The upper half of a float, as torch.bfloat16 stores it.
struct bfloat16 {
  uint16_t bits;
};

inline float widen(bfloat16 x) {
  const uint32_t bits = uint32_t(x.bits) << 16;
  float y;
  std::memcpy(&y, &bits, sizeof y);
  return y;
}
inline float widen(float x) { return x; }
inline double widen(double x) { return x; }

// Rounds to nearest, ties to even; a NaN stays one.
inline void narrow(float x, bfloat16* to) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  to->bits = uint16_t(x == x ? rounded : 0x7fc0);
}
inline void narrow(float x, float* to) { *to = x; }
inline void narrow(double x, double* to) { *to = x; }

}  // namespace speechkit
