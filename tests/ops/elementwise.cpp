// What the tests of elementwise.h call.

#include "elementwise.h"

using namespace speechkit;

extern "C" const char* run_elementwise(const float* packed, int64_t size, int64_t channels,
                                       const float* first, const float* second, int64_t step,
                                       int64_t rows, float* out, int64_t out_step) {
  Code code;
  if (const char* why = read_code(packed, size, channels, second != nullptr, code)) return why;
  elementwise(code, first, second, step, rows, channels, out, out_step);
  return nullptr;
}

// Nanoseconds of `times` calls without the checks.
extern "C" void repeat_elementwise(const float* packed, int64_t channels, const float* first,
                                   int64_t step, int64_t rows, float* out, int64_t times) {
  for (int64_t i = 0; i < times; ++i)
    elementwise(code_at(packed, channels, false), first, nullptr, step, rows, channels, out, step);
}
