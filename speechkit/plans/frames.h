// Instructions that treat each row on its own, delays, and layers outside the engine.

#pragma once

#include "separable.h"

namespace speechkit {

// weights [2, channels]: y = x · scale + shift
inline void prepare_affine(Loader& loader, Instruction& op) {
  op.table = loader.table(op.weights, 2, op.channels, op.width);
}

inline void run_affine(const Instruction& op, const Memory& m) {
  for (int64_t r = 0; r < op.rows; ++r)
    for (int64_t c = 0; c < op.width; ++c)
      m.out[r * op.width + c] = m.in[r * op.width + c] * op.table[c] + op.table[op.width + c];
  mark_alike(op, m);
}

inline void run_activate(const Instruction& op, const Memory& m) {
  if (op.activation == PROGRAM) {
    elementwise(code_at(op.parameters, op.width, false), m.in, nullptr, op.width, op.rows, op.width,
                m.out, op.width);
  } else {
    if (m.out != m.in) std::memcpy(m.out, m.in, sizeof(float) * op.rows * op.width);
    activate(op.activation, op.parameters, m.out, op.rows, op.width, op.width);
  }
  mark_alike(op, m);
}

// y = f(x + other)
inline void prepare_add(Loader& loader, Instruction& op) {
  expect(op.second >= 0, "it needs two inputs");
  prepare_activation(loader, op);
}

inline void run_add(const Instruction& op, const Memory& m) {
  const int64_t count = op.rows * op.width;
  for (int64_t i = 0; i < count; ++i) m.out[i] = m.in[i] + m.second[i];
  activate(op.activation, op.parameters, m.out, op.rows, op.width, op.width);
  mark_alike(op, m);
}

// y = f(x) or f(x, other): numbers, a program of elementwise.h
inline void prepare_expression(Loader& loader, Instruction& op) {
  expect(op.width > 1, "it takes channels, not sound");
  prepare_code(loader, op, op.second >= 0);
}

inline void run_expression(const Instruction& op, const Memory& m) {
  elementwise(code_at(op.parameters, op.channels, m.second), m.in, m.second, op.width, op.rows,
              op.width, m.out, op.width);
  mark_alike(op, m);
}

inline void prepare_log_softmax(Loader&, Instruction& op) {
  expect(op.width_in > 1, "it takes channels, not sound");
}

inline void run_log_softmax(const Instruction& op, const Memory& m) {
  for (int64_t r = 0; r < op.rows; ++r) {
    const float *x = m.in + r * op.width, top = *std::max_element(x, x + op.channels);
    double sum = 0;
    for (int64_t c = 0; c < op.channels; ++c) sum += std::exp(x[c] - top);
    const float shift = top + float(std::log(sum));
    for (int64_t c = 0; c < op.channels; ++c) m.out[r * op.width + c] = x[c] - shift;
  }
  mark_alike(op, m);
}

// Delays by `keep` rows, which stay unchanged, valid or not.
inline void prepare_delay(Loader& loader, Instruction& op) {
  loader.past(op);
  expect(op.rows == op.rows_in && op.width == op.width_in && op.channels == op.channels_in,
         "its rows and channels differ from its input's");
}

inline void run_delay(const Instruction& op, const Memory& m) {
  const Past past = slide(op, m, false);
  if (op.width == 1) {
    std::memcpy(m.out, past.rows, sizeof(float) * op.rows);
  } else {
    for (int64_t c = 0; c < op.width; c += LANES)
      for (int64_t r = 0; r < op.rows; ++r)
        store(m.out + r * op.width + c, load(past.rows + c / LANES * past.pitch + r * LANES));
  }
  mark(op, m, past.flags, 0, 1);
}

// Layer `size`, which runs outside.
inline void prepare_call(Loader& loader, Instruction& op) {
  expect(op.width > 1 && op.width_in > 1, "it takes channels, not sound");
  expect(loader.plan->call, "it calls a layer that a plan file cannot hold");
}

inline void run_call(const Instruction& op, const Memory& m) {
  m.call(m.context, op.size, m.session, m.in, m.valid, m.second, m.out, m.out_valid);
}

}  // namespace speechkit
