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

// An instruction in a file, with the fields of plans/program.py. `rows` counts the rows of its value
// for one stride. The last four fields are offsets into the weights.
struct Source {
  int64_t code, input, other, rows, channels, keep, taps, stride, dilation, left, rate, size;
  int64_t activation, precision, weights, filters, bias, numbers;
};

struct Operation;
struct Body;

// Offsets count floats: those of values and `work` in the scratch, `state` in a session's state.
struct Instruction : Source {
  const Operation* operation;
  int64_t rows_in, channels_in, width_in, width, in, out, second, work, state, cycle;
  const float *table, *filter, *shift, *parameters, *scale, *offset;
  const void* packed;
  const int32_t* tiles;
  const Body* body;
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
  // its value may take the place of its input in memory, if nothing else reads that; the same rows
  // are valid
  bool in_place = false;
  // the rest of the work, for `blocks` blocks at once, whose scratches are `size` apart
  void (*together)(const Instruction&, float* scratch, int64_t size, int64_t blocks) = nullptr;
  // its second input has only the channels of its value that the first does not have
  bool joins = false;
  // its next `left` instructions are its body
  bool has_body = false;
};

struct Failure {
  std::string reason;
};

inline void expect(bool holds, const char* reason) {
  if (!holds) throw Failure{reason};
}

// Marks which rows of a value are valid: row r if row `first` + r · `every` of its input is.
inline void mark(const Instruction& op, const Memory& m, const float* flags, int64_t first,
                 int64_t every) {
  for (int64_t r = 0; r < op.rows; ++r) m.out_valid[r] = flags[first + r * every];
}

// For an instruction with a row of output for each row of input.
inline void mark_alike(const Instruction& op, const Memory& m) {
  if (m.out_valid != m.valid) std::memcpy(m.out_valid, m.valid, sizeof(float) * op.rows);
}

}  // namespace speechkit
