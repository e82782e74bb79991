// The memory of a plan's weights: few large pieces on large pages, which are read faster.

#pragma once

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <vector>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "simd.h"

namespace speechkit {

class Arena {
 public:
  // for about `expected` floats
  explicit Arena(int64_t expected) : piece_(expected + expected / 8 + SMALLEST) {}

  // `count` zeros on a cache line
  float* take(int64_t count) {
    count = (count + LINE - 1) / LINE * LINE;
    if (pieces_.empty() || left_ < count) add(std::max(count, piece_));
    float* at = next_;
    next_ += count, left_ -= count;
    return at;
  }

 private:
  static constexpr int64_t LINE = 16, SMALLEST = 1 << 12, LARGE_PAGE_BYTES = 2 << 20;

  struct Free {
    void operator()(float* memory) const { std::free(memory); }
  };

  void add(int64_t count) {
    const int64_t page = count * 4 >= LARGE_PAGE_BYTES ? LARGE_PAGE_BYTES : 4 * LINE;
    const int64_t bytes = (count * 4 + page - 1) / page * page;
    void* memory = std::aligned_alloc(size_t(page), size_t(bytes));
    if (!memory) throw std::bad_alloc();
    pieces_.emplace_back(static_cast<float*>(memory));
#if defined(MADV_HUGEPAGE)
    if (page == LARGE_PAGE_BYTES) madvise(memory, size_t(bytes), MADV_HUGEPAGE);
#endif
    std::memset(memory, 0, size_t(bytes));
    next_ = pieces_.back().get(), left_ = bytes / 4;
  }

  std::vector<std::unique_ptr<float, Free>> pieces_;
  float* next_ = nullptr;
  int64_t left_ = 0, piece_;
};

}  // namespace speechkit
