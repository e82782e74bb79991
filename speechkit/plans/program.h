// Instructions: as a plan file lists them, and as the engine runs them. A kind of instruction is an
// Operation, a function that checks it and lays it out, and one that runs it.
//
// Values are numbered: 0 is the input, and instruction n makes value n + 1. A value has rows of
// channels, padded to whole registers; sound, a single channel, has no padding. Next to the rows is
// one float for each: whether it is valid.

#pragma once

#include <string>

#include "activation.h"
#include "matmul.h"
#include "speechkit.h"

namespace speechkit {

// An instruction in a file; the fields of plans/program.py. `rows` are those of its value for one
// stride. The last four are offsets into the weights.
struct Source {
  int64_t code, input, other, rows, channels, keep, taps, stride, dilation, left, rate, size;
  int64_t activation, precision, weights, filters, bias, numbers;
};

struct Operation;

// Offsets count floats: those of values and `work` in the scratch, `state` in a session's state.
struct Instruction : Source {
  const Operation* operation;
  int64_t rows_in, channels_in, width_in, width, in, out, second, work, state, cycle;
  const float *table, *filter, *shift, *parameters, *scale, *offset;
  const void* packed;
};

// The memory of one session's block for an instruction.
struct Memory {
  const float *in, *valid, *second;
  float *out, *out_valid, *work, *state;
  int64_t steps, session;
  speechkit_call call;
  void* context;
};

class Loader;

struct Operation {
  const char* name;
  // throws Failure for an invalid instruction; reserves memory
  void (*prepare)(Loader&, Instruction&);
  void (*run)(const Instruction&, const Memory&);
  // its value may replace the input, if nothing else reads that; the same rows stay valid
  bool in_place = false;
  // what is left to do for `blocks` blocks at once, whose scratches are `size` apart
  void (*together)(const Instruction&, float* scratch, int64_t size, int64_t blocks) = nullptr;
  // its second input has the channels that the first lacks, not those of its value
  bool joins = false;
};

struct Failure {
  std::string reason;
};

inline void expect(bool holds, const char* reason) {
  if (!holds) throw Failure{reason};
}

// Marks which rows of a value are valid: each as the row of its input `first` + r · `every`.
inline void mark(const Instruction& op, const Memory& m, const float* flags, int64_t first,
                 int64_t every) {
  for (int64_t r = 0; r < op.rows; ++r) m.out_valid[r] = flags[first + r * every];
}

// For an instruction with a row of output for each row of input.
inline void mark_alike(const Instruction& op, const Memory& m) {
  if (m.out_valid != m.valid) std::memcpy(m.out_valid, m.valid, sizeof(float) * op.rows);
}

}  // namespace speechkit
