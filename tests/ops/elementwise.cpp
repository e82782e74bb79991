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
