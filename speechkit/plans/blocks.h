// BLOCKS: cuts a session's rows into blocks and passes a memory from each block to the next. A program,
// the body, computes the next memory. This file also has instructions that are only for a body: there a
// value has all rows of a block at once.

#pragma once

#include "attention.h"

namespace speechkit {

// Copies `rows` rows of keys and then values to a strip for each channel. x points to the first key.
inline void to_strips(const float* x, int64_t rows, int64_t width, int64_t channels, float* strips) {
  const int64_t pitch = padded(rows);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < 2 * channels; ++c) strips[c * pitch + r] = x[r * width + c];
}

// The rows of x are keys and then values, [2 · channels]; those of other are queries. In each of `size`
// heads: s_j = q · k_j, y = Σ_j softmax(s)_j v_j over the valid rows j of x; y is 0 if there are none. All
// rows of y are valid.
inline void prepare_attend(Loader& loader, Instruction& op) {
  expect(op.second >= 0 && op.width_in > 1, "it needs two inputs of channels");
  expect(op.channels_in == product(2, op.channels), "its input is not keys and values");
  expect(op.size >= 1 && op.channels % op.size == 0, "its channels do not divide by its heads");
  loader.work(op, product(op.channels_in + 2, padded(op.rows_in)));
}

inline void run_attend(const Instruction& op, const Memory& m) {
  const int64_t count = padded(op.rows_in);
  float *flags = m.work, *a = flags + count, *strips = a + count;
  // the padding after the last row has the weight 0
  std::memset(m.work, 0, sizeof(float) * count * (op.channels_in + 2));
  std::memcpy(flags, m.valid, sizeof(float) * op.rows_in);
  to_strips(m.in, op.rows_in, op.width_in, op.channels, strips);
  for (int64_t r = 0; r < op.rows; ++r) {
    float* y = m.out + r * op.width;
    attend(op.channels, op.size, m.second + r * op.width, strips, count, count, a, y,
           [&](int64_t, float* s) { return soften(s, flags, count); });
    std::memset(y + op.channels, 0, sizeof(float) * (op.width - op.channels));
    m.out_valid[r] = 1;
  }
}

// y_r = x_r + p_r for each row r; weights: p [rows, channels]
inline void prepare_places(Loader& loader, Instruction& op) {
  op.table = loader.table(op.weights, op.rows, op.channels, op.width);
}

inline void run_places(const Instruction& op, const Memory& m) {
  const int64_t count = op.rows * op.width;
  for (int64_t i = 0; i < count; ++i) m.out[i] = m.in[i] + op.table[i];
  mark_alike(op, m);
}

// A session's state: `count`, how many rows of the block have come; `begun`, whether any row was valid so
// far; the rows of the block; the memory; and `rest`, the strips that queries read or the output rows of
// the last block. Rows are followed by whether each is valid.
struct BlockState {
  float *count, *begun, *block, *memory, *rest;
};

inline int64_t floats_of(const Value& v) { return padded(v.rows * v.width) + padded(v.rows); }

inline BlockState block_state(const Body& body, float* state) {
  float* block = state + COLUMNS;
  float* memory = block + floats_of(body.block);
  return {state, state + 1, block, memory, memory + floats_of(body.memory)};
}

inline float* valid_of(const Value& v, float* rows) { return rows + padded(v.rows * v.width); }

inline void keep_strips(const Instruction& op, const BlockState& s) {
  to_strips(s.memory + op.keep - 2 * op.channels, op.size, op.body->memory.width, op.channels, s.rest);
}

// Cuts rows into blocks of `taps` rows. After each block the body (see Loader::body) computes the next
// memory from the block and the memory. A block without a valid row does not change the memory.
// With `other`, the queries, only valid rows are counted, and y comes at once: y = Σ_s softmax(q · k_s) v_s
// in each of numbers[0] heads; the last channels of the memory's rows are keys and then values.
// Without `other`, rows are counted from the first valid one on, and y is the body's output for a row,
// `taps` − 1 rows later.
// weights: the first memory [size, keep]
inline void prepare_blocks(Loader& loader, Instruction& op) {
  expect(op.width_in > 1, "it takes channels, not sound");
  expect(op.rows == op.rows_in, "its rows differ from its input's");
  expect(op.taps >= 1 && op.size >= 1 && op.keep >= 1, "its blocks or its memory are empty");
  const Body& body = loader.body(op);
  op.body = &body;
  expect(body.next.rows == op.size && body.next.channels == op.keep, "its next memory has another size");
  int64_t rest;
  if (op.second >= 0) {
    expect(op.keep >= product(2, op.channels), "its memory has no keys and values");
    op.parameters = loader.table(op.numbers, 1, 1, COLUMNS);
    const float heads = op.parameters[0];
    expect(heads >= 1 && heads <= float(op.channels) && op.channels % int64_t(heads) == 0,
           "its channels do not divide by its heads");
    rest = product(padded(op.size), 2 * op.channels);
    // every row of the memory is read, but not the padding after the last one
    float* flags = loader.hold(padded(op.size));
    std::fill(flags, flags + op.size, 1.0f);
    op.filter = flags;
  } else {
    expect(body.leaving.rows == op.taps && body.leaving.channels == op.channels,
           "its body's output rows differ from its own");
    rest = floats_of(body.leaving);
  }
  float* start = loader.state(op, COLUMNS + floats_of(body.block) + floats_of(body.memory) + rest);
  const BlockState s = block_state(body, start);
  const float* first = loader.numbers(op.weights, product(op.size, op.keep));
  for (int64_t r = 0; r < op.size; ++r)
    std::memcpy(s.memory + r * body.memory.width, first + r * op.keep, sizeof(float) * op.keep);
  if (op.second >= 0) keep_strips(op, s);
  loader.work(op, body.plan->scratch + padded(op.size));
}

inline void end_block(const Instruction& op, const BlockState& s, float* scratch) {
  const Body& body = *op.body;
  const float* flags = valid_of(body.block, s.block);
  std::memcpy(scratch + body.block.at, s.block, sizeof(float) * floats_of(body.block));
  std::memcpy(scratch + body.memory.at, s.memory, sizeof(float) * floats_of(body.memory));
  float* valid = valid_of(body.memory, scratch + body.memory.at);
  std::fill(valid, valid + op.size, 1.0f);
  for (const Instruction& inner : body.plan->instructions) {
    run(inner, scratch, nullptr, 0, 0, nullptr, nullptr);
    if (inner.operation->together) inner.operation->together(inner, scratch, 0, 1);
  }
  if (total(flags, op.taps, [](auto v) { return v; }) > 0)
    std::memcpy(s.memory, scratch + body.next.at, sizeof(float) * floats_of(body.memory));
  if (op.second >= 0) {
    keep_strips(op, s);
  } else {
    std::memcpy(s.rest, scratch + body.leaving.at, sizeof(float) * op.taps * op.width);
    std::memcpy(valid_of(body.leaving, s.rest), flags, sizeof(float) * op.taps);
  }
}

inline void run_blocks(const Instruction& op, const Memory& m) {
  const BlockState s = block_state(*op.body, m.state);
  const bool reads = op.second >= 0;
  const int64_t count = padded(op.size);
  float *weights = m.work, *scratch = m.work + count;
  for (int64_t r = 0; r < op.rows; ++r) {
    const bool valid = m.valid[r] != 0;
    float* y = m.out + r * op.width;
    std::memset(y, 0, sizeof(float) * op.width);
    m.out_valid[r] = 0;
    if (!valid && (reads || *s.begun == 0)) continue;
    *s.begun = 1;
    if (reads) {
      attend(op.channels, int64_t(op.parameters[0]), m.second + r * op.width, s.rest, count, count,
             weights, y, [&](int64_t, float* a) { return soften(a, op.filter, count); });
      m.out_valid[r] = 1;
    }
    // a state may come from a file, so its count may be wrong
    int64_t place = int64_t(std::min(std::max(0.0f, *s.count), float(op.taps - 1)));
    float* to = s.block + place * op.width_in;
    if (valid)
      std::memcpy(to, m.in + r * op.width_in, sizeof(float) * op.width_in);
    else
      std::memset(to, 0, sizeof(float) * op.width_in);
    valid_of(op.body->block, s.block)[place] = valid;
    place = (place + 1) % op.taps;
    *s.count = float(place);
    if (place == 0) end_block(op, s, scratch);
    if (reads) continue;
    std::memcpy(y, s.rest + place * op.width, sizeof(float) * op.width);
    m.out_valid[r] = valid_of(op.body->leaving, s.rest)[place];
  }
}

}  // namespace speechkit
